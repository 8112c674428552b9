"""The certificates of devices: issued, used, taken back; each step is a row before anyone hears of it."""

from __future__ import annotations

import logging
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from server.database.tables import certificates, devices
from server.errors import ConflictError, UnauthorizedError
from server.fleet.devices import unknown_device
from server.schemas.fleet import DeviceCertificate
from server.trust.authority import DAY_S, pem_of, public_key_sha256, serial_of
from server.trust.requests import public_key_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

    from server.database.connect import Database
    from server.trust.authority import Authority
    from server.trust.folder import TrustFolder

log = logging.getLogger(__name__)

RENEW_AFTER: Final = 2 / 3  # of its life, a device asks for the next one


class Reason(StrEnum):
    """Why a certificate counts no more."""

    RENEWED = "renewed"
    REPLACED = "replaced"
    REVOKED = "revoked"
    RETIRED = "retired"


def issue(
    connection: sa.Connection,
    authority: Authority,
    key: ec.EllipticCurvePublicKey,
    device_id: str,
    *,
    now: float,
    days: float,
) -> DeviceCertificate:
    """Issue for a device, and write down that it was."""
    issued = authority.issue_device(key, device_id, now=now, days=days)
    expires_at = now + days * DAY_S
    row = {
        "serial": serial_of(issued),
        "device_id": device_id,
        "public_key_sha256": public_key_sha256(key),
        "issued_at": now,
        "expires_at": expires_at,
    }
    connection.execute(sa.insert(certificates).values(row))
    return DeviceCertificate(
        certificate=(pem_of(issued) + authority.chain).decode(),
        serial=row["serial"],
        expires_at=expires_at,
        renew_at=now + RENEW_AFTER * days * DAY_S,
    )


def renew(
    database: Database, authority: Authority, serial: str, request: str, *, now: float, days: float
) -> DeviceCertificate:
    """The next certificate of the device that holds one; the one it has counts until the next was used.

    Raises:
        UnauthorizedError: the present one was taken back, or is of a device that is gone.
        BadRequestError: the request can't be taken.
        ConflictError: it is for the key that the device has already.
    """
    with database.write() as connection:
        present = _counting(connection, serial)
        key = public_key_of(request, device_id=present.device_id)
        used = sa.select(certificates.c.serial).where(certificates.c.public_key_sha256 == public_key_sha256(key))
        if connection.execute(used).first() is not None:
            raise ConflictError("This key had a certificate before: a new certificate is for a new key.")
        return issue(connection, authority, key, present.device_id, now=now, days=days)


def confirm(database: Database, serial: str, *, now: float) -> bool:
    """A device shows that its certificate works: the others of the device count no more. Whether there were others.

    Raises:
        UnauthorizedError: it was taken back, or is of a device that is gone.
    """
    with database.write() as connection:
        present = _counting(connection, serial)
        this = certificates.c.serial == serial
        connection.execute(sa.update(certificates).where(this, certificates.c.used_at.is_(None)).values(used_at=now))
        return take_back(connection, present.device_id, Reason.RENEWED, now=now, but=serial)


def take_back(connection: sa.Connection, device_id: str, reason: Reason, *, now: float, but: str | None = None) -> bool:
    """Revoke what a device holds; whether there was something. The broker is told after the commit: `tell_broker`."""
    mine = [certificates.c.device_id == device_id, certificates.c.revoked_at.is_(None)]
    if but is not None:
        mine.append(certificates.c.serial != but)
    taken = connection.execute(sa.update(certificates).where(*mine).values(revoked_at=now, reason=reason.value))
    return bool(taken.rowcount)


def revoke(database: Database, device_id: str, *, now: float) -> None:
    """Nothing of a device counts any more: it is lost, stolen or copied. Its id stays taken for its successor.

    Raises:
        NotFoundError: there is no such device, or it is retired.
    """
    with database.write() as connection:
        there = [devices.c.device_id == device_id, devices.c.removed_at.is_(None)]
        if not connection.execute(sa.update(devices).where(*there).values(revoked_at=now)).rowcount:
            raise unknown_device(connection, device_id)
        take_back(connection, device_id, Reason.REVOKED, now=now)


def tell_broker(database: Database, folder: TrustFolder, *, now: float) -> None:
    """Write both of the broker's lists from what the database says; it reads them within seconds.

    Raises:
        TrustError: they can't be written: what was revoked is so in the database, and the API goes by that.
    """
    alive = certificates.c.expires_at > now
    gone = sa.or_(devices.c.revoked_at.is_not(None), devices.c.removed_at.is_not(None))
    with database.read() as connection:
        revoked = connection.execute(
            sa.select(certificates.c.serial, certificates.c.revoked_at).where(
                alive, certificates.c.revoked_at.is_not(None)
            )
        ).all()
        denied = connection.execute(
            sa.select(devices.c.device_id).where(
                gone, devices.c.device_id.in_(sa.select(certificates.c.device_id).where(alive))
            )
        ).scalars()
        folder.tell_broker({row.serial: row.revoked_at for row in revoked}, denied, now=now)


def device_of(database: Database, serial: str) -> str:
    """Whose a certificate is, as long as it counts.

    Raises:
        UnauthorizedError: it does not.
    """
    with database.read() as connection:
        return str(_counting(connection, serial).device_id)


def _counting(connection: sa.Connection, serial: str) -> sa.Row[Any]:
    query = (
        sa.select(certificates.c.device_id)
        .join(devices, devices.c.device_id == certificates.c.device_id)
        .where(certificates.c.serial == serial, certificates.c.revoked_at.is_(None))
        .where(devices.c.removed_at.is_(None), devices.c.revoked_at.is_(None))
    )
    if (row := connection.execute(query).first()) is None:
        raise UnauthorizedError("This certificate was taken back, or its device is gone: enrol again with a new token.")
    return row
