"""`edge-agent enroll`: trust nobody but the root that the token names, then get a certificate for a key made here.

Killed at any moment it can be run again: the key is on disk before it is used, and the registry gives a key that has
enrolled with this token the same device again.
"""

from __future__ import annotations

import http.client
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from edge_agent import __version__
from edge_agent.enrolment import keys
from edge_agent.enrolment.token import checked_root, root_of
from edge_agent.link import identity as identities
from edge_agent.link import registry_http
from edge_agent.link.identity import Credential, Identity, NotEnrolledError
from edge_agent.link.tls import root_context
from edge_agent.storage.durable import replace_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edge_agent.layout import Layout

LONGEST_PAUSE_S = 60.0


@dataclass(frozen=True, slots=True)
class Asked:
    """What the device says of itself."""

    registry_url: str
    token: str
    device_id: str | None
    profile: str | None
    labels: Mapping[str, str]
    runtimes: Mapping[str, str]
    facts: Mapping[str, str]


def enrol(layout: Layout, asked: Asked, *, wait_s: float, told: Callable[[str], None], again: bool) -> Identity:
    """The identity of this folder, gotten from the registry and saved.

    Args:
        layout: the agent's files.
        asked: who asks whom.
        wait_s: how long to wait for an operator where the token needs one.
        told: takes a sentence while it waits.
        again: also where the folder has an identity, which is given up.

    Raises:
        BadTokenError: the token names no root.
        OtherRootError: who answers has another root.
        OtherRegistryError: the folder belongs to another registry or device.
        NotEnrolledError: the registry has refused, or nobody let the device in in time.
        RegistryUnreachableError: nobody answers, or who answers has no certificate of that root.
    """
    url, expected = identities.normalized(asked.registry_url), root_of(asked.token)
    if not url.startswith("https://"):
        raise NotEnrolledError(f"{url} is not https://: a device shows its token only to whom it can recognise")
    present = identities.load(layout)
    if present is not None and not again:
        identities.require_same(present, layout, registry_url=url, device_id=asked.device_id)
        return present
    _make_private(layout)
    root = checked_root(_fetch_root(url), expected, url=url)
    replace_file(layout.new_root, root.encode(), mode=0o600)
    key = _kept_key(layout)
    answer = _ask(layout, url, asked, key, wait_s=wait_s, told=told)
    return _save(layout, url, key, answer)


def _fetch_root(url: str) -> bytes:
    """From whoever answers: what comes is compared before anything is sent, so the connection need not be trusted."""
    anybody = ssl.create_default_context()
    anybody.check_hostname = False
    anybody.verify_mode = ssl.CERT_NONE
    return registry_http.request("GET", f"{url}/v1/enrolment/root", headers={}, tls=anybody).body


def _kept_key(layout: Layout) -> bytes:
    """The key of an enrolment that was begun, else a new one; on disk before anybody hears of it."""
    try:
        key = layout.new_key.read_bytes()
        keys.request_for(key, None)
    except (FileNotFoundError, ValueError):
        key = keys.new_key()
        replace_file(layout.new_key, key, mode=0o600)
    return key


def _ask(
    layout: Layout, url: str, asked: Asked, key: bytes, *, wait_s: float, told: Callable[[str], None]
) -> dict[str, Any]:
    document = {
        "token": asked.token,
        "request": keys.request_for(key, asked.device_id),
        "device_id": asked.device_id,
        "profile": asked.profile,
        "labels": dict(asked.labels),
        "agent_version": __version__,
        "runtimes": dict(asked.runtimes),
        "facts": dict(asked.facts),
    }
    tls, end_s = root_context(layout.new_root), time.monotonic() + wait_s
    while True:
        try:
            answer = registry_http.request_json("POST", f"{url}/v1/enrolment", document=document, tls=tls)
        except registry_http.RegistryRefusedError as exc:
            if exc.status == http.client.TOO_MANY_REQUESTS and time.monotonic() < end_s:
                told(f"{exc}; asking again")
                time.sleep(min(LONGEST_PAUSE_S, exc.retry_after_s or 1.0))
                continue
            if exc.status < http.client.INTERNAL_SERVER_ERROR:
                layout.new_key.unlink(missing_ok=True)
            raise NotEnrolledError(f"the registry did not let this device in: {exc}") from exc
        if not answer.get("pending"):
            return answer
        claim, pause_s = str(answer.get("claim_id", ""))[:64], float(answer.get("retry_after_s", 10.0))
        if time.monotonic() + pause_s > end_s:
            raise NotEnrolledError(
                f"an operator must let this device in (edge-registry device approve {claim}): run this again afterwards"
            )
        told(f"waiting until an operator lets this device in: edge-registry device approve {claim}")
        time.sleep(min(LONGEST_PAUSE_S, max(0.1, pause_s)))


def _save(layout: Layout, url: str, key: bytes, answer: Mapping[str, Any]) -> Identity:
    try:
        credential = keep_credential(layout, key, answer)
        identity = Identity.model_validate({**answer, "registry_url": url, "credential": credential})
    except ValidationError as exc:
        where = ".".join(str(part) for part in exc.errors()[0]["loc"])
        raise NotEnrolledError(f"the registry's answer to enrolling has no usable {where}") from exc
    layout.new_root.replace(layout.root_certificate)
    identities.save(layout, identity)
    layout.new_key.unlink(missing_ok=True)
    identities.drop_other_credentials(layout, identity)
    return identity


def keep_credential(layout: Layout, key: bytes, answer: Mapping[str, Any]) -> Credential:
    """Put a key and its certificate beside the others, in one file; nothing uses it yet.

    Raises:
        NotEnrolledError: the certificate is none, or not of this key.
    """
    credential = Credential.model_validate({**answer, "file": f"{answer.get('serial')}.pem"})
    path = layout.credential(credential.file)
    replace_file(path, key + str(answer.get("certificate", "")).encode(), mode=0o600)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(path)
    except (OSError, ssl.SSLError) as exc:
        path.unlink()
        raise NotEnrolledError("the registry's answer holds no certificate for this device's key") from exc
    return credential


def _make_private(layout: Layout) -> None:
    layout.tls_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    layout.tls_dir.chmod(0o700)
