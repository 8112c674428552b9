"""The API's side: a question is written down, and looked at until it is answered."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from edge_agent.protocol.inquiry import Diagnosis, Inquiry, LogTail, unpack
from edge_agent.protocol.messages import ProtocolError
from server.audit.trail import changed
from server.database.tables import device_states, devices, inquiries, inquiry_answers
from server.errors import BusyError, ConflictError, NotFoundError, RegistryError
from server.fleet.devices import unknown_device
from server.ingest.presence import presence_of
from server.inquiries.wording import silence
from server.schemas.inquiries import InquiryState, InquiryView

if TYPE_CHECKING:
    from typing import TypeVar

    from server.database.connect import Database
    from server.schemas.inquiries import InquiryForm

    DocumentT = TypeVar("DocumentT", LogTail, Diagnosis)

KEPT_S: Final = 2 * 86_400.0  # then a question is forgotten with its answer
OPEN_LIMIT: Final = 8  # of one device


class BadAnswerError(RegistryError):
    """What a device has sent can't be used."""

    code = "bad_answer"


def ask(database: Database, device_id: str, form: InquiryForm, *, now: float) -> str:
    """Write a question down; the delivery asks it.

    Returns:
        The id of the inquiry.

    Raises:
        NotFoundError: no such device.
        BusyError: it has as many open questions as a device may have.
    """
    inquiry = Inquiry(inquiry_id=secrets.token_hex(16), **form.model_dump(exclude={"wait_s"}))
    row = {
        "inquiry_id": inquiry.inquiry_id,
        "device_id": device_id,
        "request": inquiry.model_dump(mode="json"),
        "created_at": now,
        "expires_at": now + form.wait_s,
    }
    with database.write() as connection:
        there = sa.select(devices.c.device_id).where(devices.c.device_id == device_id, devices.c.removed_at.is_(None))
        if connection.execute(there).first() is None:
            raise unknown_device(connection, device_id)
        if _open_count(connection, device_id, now) >= OPEN_LIMIT:
            raise BusyError(f"Device {device_id} has {OPEN_LIMIT} open questions already: wait for their answers.")
        connection.execute(sa.delete(inquiries).where(inquiries.c.created_at < now - KEPT_S))
        connection.execute(sa.insert(inquiries).values(row))
        changed(connection, "device.ask", f"device/{device_id}", after={"inquiry": row["request"]})
    return inquiry.inquiry_id


def get(database: Database, inquiry_id: str, *, now: float, interval_s: float) -> InquiryView:
    """Where a question stands.

    Raises:
        NotFoundError: there is none with this id, or not any more.
    """
    seen = (device_states.c.session_id, device_states.c.online, device_states.c.last_seen_at)
    query = (
        sa.select(inquiries, inquiry_answers.c.state, inquiry_answers.c.detail, *seen)
        .outerjoin(inquiry_answers, inquiry_answers.c.inquiry_id == inquiries.c.inquiry_id)
        .outerjoin(device_states, device_states.c.device_id == inquiries.c.device_id)
        .where(inquiries.c.inquiry_id == inquiry_id)
    )
    with database.read() as connection:
        row = connection.execute(query).first()
    if row is None:
        raise _unknown(inquiry_id)
    state = InquiryState(row.state or "waiting")
    presence = presence_of(row._asdict(), now=now, interval=interval_s)
    if state in (InquiryState.WAITING, InquiryState.ASKED) and now >= row.expires_at:
        state = InquiryState.EXPIRED
    late = silence(row.device_id, presence, row.last_seen_at, now=now, waited_s=row.expires_at - row.created_at)
    return InquiryView(
        inquiry_id=inquiry_id,
        device_id=row.device_id,
        kind=row.request["kind"],
        state=state,
        detail=late if state is InquiryState.EXPIRED else row.detail or "",
        created_at=row.created_at,
        expires_at=row.expires_at,
        presence=presence,
        last_seen_at=row.last_seen_at,
    )


def read_answer(database: Database, view: InquiryView, kind: type[DocumentT]) -> DocumentT:
    """What a device has answered, unpacked and validated.

    Raises:
        ConflictError: it has not answered, refuses, or was asked something else.
        BadAnswerError: what it has sent can't be used.
    """
    asked = {Diagnosis: "diagnosis", LogTail: "log"}[kind]
    if view.kind != asked:
        raise ConflictError(f"Inquiry {view.inquiry_id} asks device {view.device_id} for its {view.kind}, not {asked}.")
    if view.state is InquiryState.REFUSED:
        raise ConflictError(f"Device {view.device_id} refuses: {view.detail}.")
    if view.state is InquiryState.EXPIRED:
        raise ConflictError(view.detail)
    query = sa.select(inquiry_answers.c.content).where(inquiry_answers.c.inquiry_id == view.inquiry_id)
    with database.read() as connection:
        content = connection.execute(query).scalar()
    if content is None:
        raise ConflictError(f"Device {view.device_id} has not answered yet: ask again in a moment.")
    try:
        return unpack(kind, content)
    except ProtocolError as exc:
        raise BadAnswerError(f"What device {view.device_id} has sent can't be used: {exc}.") from exc


def _open_count(connection: sa.Connection, device_id: str, now: float) -> int:
    closed = sa.select(inquiry_answers.c.inquiry_id).where(inquiry_answers.c.state != InquiryState.ASKED.value)
    query = (
        sa.select(sa.func.count())
        .select_from(inquiries)
        .where(inquiries.c.device_id == device_id, inquiries.c.expires_at > now)
        .where(inquiries.c.inquiry_id.not_in(closed))
    )
    return connection.execute(query).scalar() or 0


def _unknown(inquiry_id: str) -> NotFoundError:
    return NotFoundError(f"There is no inquiry {inquiry_id}; one is forgotten after {KEPT_S / 86_400:.0f} days.")
