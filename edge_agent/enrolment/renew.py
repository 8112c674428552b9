"""The next certificate of a device: for a new key, over the API, with the present certificate; then the old one ends.

Each step is on disk before the next, and the old certificate counts until the registry has seen the new one: killed
anywhere, or with an answer lost, it is run again and nothing is lost but a certificate that nobody uses.
"""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING

from edge_agent.enrolment import keys
from edge_agent.enrolment.enrol import keep_credential
from edge_agent.link import identity as identities
from edge_agent.link import registry_http
from edge_agent.link.identity import NotEnrolledError
from edge_agent.link.tls import client_context

if TYPE_CHECKING:
    from edge_agent.layout import Layout
    from edge_agent.link.identity import Credential, Identity


def renew(layout: Layout) -> Identity:
    """Renew; the identity with its new certificate.

    Raises:
        NotEnrolledError: there is no identity, or no certificate, here.
        RegistryUnreachableError: try again later.
        RegistryRefusedError: the present certificate counts no more, or later.
    """
    identity = identities.load(layout)
    if identity is None or (present := identity.credential) is None:
        raise NotEnrolledError("there is no certificate here to renew: enroll this device")
    if identity.successor is not None:
        try:
            return _use(layout, identity, identity.successor)
        except registry_http.RegistryRefusedError as exc:
            if exc.status != http.client.UNAUTHORIZED:
                raise
            identity = identity.model_copy(update={"successor": None})  # of a registry that was restored: ask anew
            identities.save(layout, identity)
    key = keys.new_key()
    answer = registry_http.request_json(
        "POST",
        f"{identity.registry_url}/v1/device/certificate",
        document={"request": keys.request_for(key, identity.device_id)},
        tls=client_context(layout, present),
    )
    successor = keep_credential(layout, key, answer)
    identity = identity.model_copy(update={"successor": successor})
    identities.save(layout, identity)
    return _use(layout, identity, successor)


def _use(layout: Layout, identity: Identity, successor: Credential) -> Identity:
    url = f"{identity.registry_url}/v1/device/certificate/confirmation"
    registry_http.request("POST", url, headers={}, tls=client_context(layout, successor))
    renewed = identity.model_copy(update={"credential": successor, "successor": None})
    identities.save(layout, renewed)
    identities.drop_other_credentials(layout, renewed)
    return renewed
