"""What the broker is told: which certificates count no more, and who may publish and read what.

Two lists, because of Mosquitto (seen in 2.0.11): the revocation list (RFC 5280) keeps a certificate out that wants to
connect, and does nothing to a connection that is there; the access list is looked up for every message. So who is
revoked stands in both, until the same device has enrolled anew: then only the old certificate stays out.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from edge_agent.protocol.topics import ROOT, DeviceTopic
from server.trust.names import Role, role_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from server.trust.authority import Authority

DEVICE_WRITES: Final = (
    DeviceTopic.PRESENCE,
    DeviceTopic.STATUS,
    DeviceTopic.TELEMETRY,
    DeviceTopic.ASK,
    DeviceTopic.ANSWER,
)
DEVICE_READS: Final = (DeviceTopic.DESIRED, DeviceTopic.ACK, DeviceTopic.REPLY, DeviceTopic.INQUIRY)
_EVERY: Final = f"{ROOT}/d/+"
_ROLES: Final[dict[Role, tuple[str, ...]]] = {
    Role.API: (),
    Role.UP: (),
    Role.CONTROLLER: (
        f"write {_EVERY}/{DeviceTopic.DESIRED}",
        # an empty message clears what a retired device has left
        f"write {_EVERY}/{DeviceTopic.PRESENCE}",
        f"write {_EVERY}/{DeviceTopic.STATUS}",
    ),
    Role.DELIVERY: (
        f"read {_EVERY}/{DeviceTopic.ASK}",
        f"read {_EVERY}/{DeviceTopic.ANSWER}",
        f"write {_EVERY}/{DeviceTopic.REPLY}",
        f"write {_EVERY}/{DeviceTopic.INQUIRY}",
        f"write {_EVERY}/block/+/+",
        f"write {ROOT}/a/+/+",
    ),
    Role.INGEST: (
        f"read {_EVERY}/{DeviceTopic.PRESENCE}",
        f"read {_EVERY}/{DeviceTopic.STATUS}",
        f"read {_EVERY}/{DeviceTopic.TELEMETRY}",
        f"write {_EVERY}/{DeviceTopic.ACK}",
    ),
}


def revocation_list(authority: Authority, revoked: Mapping[str, float], *, now: float) -> bytes:
    """The list of revoked certificates, signed.

    Args:
        authority: who issued them.
        revoked: hexadecimal serial number -> when, in seconds since 1970.
        now: seconds since 1970. The list is good for as long as its issuer: it lies beside the broker, nobody fetches
            it, and one that had run out would keep every device out.
    """
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.intermediate.certificate.subject)
        .last_update(_time(now))
        .next_update(authority.intermediate.certificate.not_valid_after_utc)
        # of two lists in memory OpenSSL takes the newer one: Mosquitto adds at each reload and drops none
        .add_extension(x509.CRLNumber(int(now * 1000)), critical=False)
    )
    for serial, at in sorted(revoked.items()):
        entry = x509.RevokedCertificateBuilder().serial_number(int(serial, 16)).revocation_date(_time(at)).build()
        builder = builder.add_revoked_certificate(entry)
    signed = builder.sign(authority.intermediate.key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM)


def access_list(services: Iterable[str], denied: Iterable[str]) -> str:
    """Mosquitto's access list: nobody may do anything but what stands here.

    Args:
        services: names of the registry's processes that have a certificate.
        denied: ids of devices that may do nothing at all, whatever certificate they connected with.
    """
    lines = ["# Written by the registry: changes made here are lost.", "", "# A device: its own topics, and blocks."]
    lines += [f"pattern write {ROOT}/d/%u/{kind}" for kind in DEVICE_WRITES]
    lines += [f"pattern read {ROOT}/d/%u/{kind}" for kind in DEVICE_READS]
    lines += [f"pattern read {ROOT}/d/%u/block/+/+", f"pattern read {ROOT}/a/+/+"]
    for name in sorted(set(services)):
        if (role := role_of(name)) is None:
            raise ValueError(f"{name[:64]!r} is no process of a registry")
        if rules := _ROLES[role]:
            lines += ["", f"user {name}", *(f"topic {rule}" for rule in rules)]
    for device_id in sorted(set(denied)):
        lines += ["", f"user {device_id}", "topic deny #"]
    return "\n".join([*lines, ""])


def _time(unix_s: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(unix_s, dt.UTC)
