"""The delivery's side: asks devices what is written down, again until it is answered, and puts the answers together.

What a device sends is capped before it is parsed, belongs to a question that is open for this very device, and is only
stored here: whoever reads it unpacks and validates it.
"""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from edge_agent.protocol.inquiry import AnswerPart, AnswerStatus, Inquiry
from edge_agent.protocol.messages import ProtocolError, decode, encode
from edge_agent.protocol.topics import DeviceTopic, device_topic
from server.database.tables import inquiries, inquiry_answers, inquiry_parts
from server.errors import BrokerUnavailableError, DatabaseUnavailableError
from server.ingest.intake import DETAIL_CHARACTERS, Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.database.connect import Database
    from server.mqtt import BrokerConnection

log = logging.getLogger(__name__)

LOOK_S: Final = 0.5
AGAIN_S: Final = 10.0  # without a word from the device
AT_ONCE: Final = 100
SWEEP_S: Final = 600.0
ASKED, ANSWERED, REFUSED = "asked", "answered", "refused"


class Inquirer:
    """Asks and takes answers in; called by one thread. Several processes may have one each."""

    def __init__(self, database: Database, connection: BrokerConnection, *, clock: Callable[[], float]) -> None:
        self._database, self._connection, self._clock = database, connection, clock
        self._look_at = self._sweep_at = 0.0

    def tick(self) -> None:
        """Ask what is due."""
        now = self._clock()
        if self._look_at - LOOK_S <= now < self._look_at:
            return
        self._look_at = now + LOOK_S
        try:
            self._ask_due(now)
            self._sweep(now)
        except DatabaseUnavailableError as exc:
            log.warning("no device is asked now: %s", exc)

    def take(self, device: str, payload: bytes) -> Refused | None:
        """Take a part of an answer in; what was refused and why, if anything.

        Raises:
            DatabaseUnavailableError: it is lost, and the device is asked again.
        """
        try:
            part = decode(AnswerPart, payload)
        except ProtocolError as exc:
            return Refused(device, f"{exc.code} answer", str(exc)[:DETAIL_CHARACTERS])
        if part.status is AnswerStatus.OK and not (part.sha256 and part.data and part.part < part.parts):
            return Refused(device, "malformed answer", "a part without its place, its bytes or its sha256")
        now = self._clock()
        with self._database.write() as connection:
            if not self._is_open(connection, device, part.inquiry_id, now):
                return Refused(device, "answer to no open question", part.inquiry_id)
            if part.status is AnswerStatus.REFUSED:
                self._close(connection, part.inquiry_id, state=REFUSED, detail=part.detail, now=now)
            else:
                self._keep(connection, part, now)
        return None

    def _ask_due(self, now: float) -> None:
        if not self._connection.is_ready:
            return
        answers = inquiry_answers.c
        unasked = answers.state.is_(None)
        silent = sa.and_(answers.state == ASKED, answers.active_at <= now - AGAIN_S)
        query = (
            sa.select(inquiries.c.inquiry_id, inquiries.c.device_id, inquiries.c.request)
            .outerjoin(inquiry_answers, answers.inquiry_id == inquiries.c.inquiry_id)
            .where(inquiries.c.expires_at > now, sa.or_(unasked, silent))
            .order_by(inquiries.c.created_at)
            .limit(AT_ONCE)
        )
        with self._database.read() as connection:
            due = connection.execute(query).all()
        for row in due:
            if not self._claim(row.inquiry_id, now):
                continue  # another delivery asks
            payload = encode(Inquiry.model_validate(row.request))
            topic = device_topic(row.device_id, DeviceTopic.INQUIRY)
            try:
                self._connection.publish(topic, payload, qos=1, expiry_s=int(AGAIN_S))
            except BrokerUnavailableError as exc:
                log.info("%s is asked a little later: %s", row.device_id, exc)

    def _claim(self, inquiry_id: str, now: float) -> bool:
        row = {"inquiry_id": inquiry_id, "state": ASKED, "active_at": now, "detail": ""}
        insert = (sqlite.insert if self._database.is_sqlite else postgresql.insert)(inquiry_answers)
        silent = sa.and_(inquiry_answers.c.state == ASKED, inquiry_answers.c.active_at <= now - AGAIN_S)
        claim = insert.values(row).on_conflict_do_update(
            index_elements=["inquiry_id"], set_={"active_at": now}, where=silent
        )
        with self._database.write() as connection:
            return connection.execute(claim.returning(inquiry_answers.c.inquiry_id)).first() is not None

    def _is_open(self, connection: sa.Connection, device: str, inquiry_id: str, now: float) -> bool:
        query = (
            sa.select(inquiry_answers.c.state)
            .join(inquiries, inquiries.c.inquiry_id == inquiry_answers.c.inquiry_id)
            .where(inquiries.c.inquiry_id == inquiry_id, inquiries.c.device_id == device, inquiries.c.expires_at > now)
        )
        return connection.execute(query).scalar() == ASKED

    def _keep(self, connection: sa.Connection, part: AnswerPart, now: float) -> None:
        parts = inquiry_parts.c
        mine = parts.inquiry_id == part.inquiry_id
        other = sa.or_(parts.sha256 != part.sha256, parts.parts != part.parts, parts.part == part.part)
        connection.execute(sa.delete(inquiry_parts).where(mine, other))  # those of an earlier answer, and this one
        row = {"part": part.part, "parts": part.parts, "sha256": part.sha256, "content": part.data}
        connection.execute(sa.insert(inquiry_parts).values(inquiry_id=part.inquiry_id, **row))
        count = connection.execute(sa.select(sa.func.count()).select_from(inquiry_parts).where(mine)).scalar()
        if count != part.parts:
            touched = sa.update(inquiry_answers).where(inquiry_answers.c.inquiry_id == part.inquiry_id)
            connection.execute(touched.values(active_at=now))
            return
        content = b"".join(connection.execute(sa.select(parts.content).where(mine).order_by(parts.part)).scalars())
        if hashlib.sha256(content).hexdigest() == part.sha256:
            self._close(connection, part.inquiry_id, state=ANSWERED, content=content, now=now)
        else:
            detail = "its parts together are not what their sha256 says"
            self._close(connection, part.inquiry_id, state=REFUSED, detail=detail, now=now)

    def _close(
        self,
        connection: sa.Connection,
        inquiry_id: str,
        *,
        state: str,
        now: float,
        detail: str = "",
        content: bytes | None = None,
    ) -> None:
        row = {"state": state, "active_at": now, "detail": detail, "content": content}
        connection.execute(sa.update(inquiry_answers).where(inquiry_answers.c.inquiry_id == inquiry_id).values(row))
        connection.execute(sa.delete(inquiry_parts).where(inquiry_parts.c.inquiry_id == inquiry_id))

    def _sweep(self, now: float) -> None:
        """Forget the answers to questions that the API has forgotten."""
        if now < self._sweep_at:
            return
        self._sweep_at = now + SWEEP_S
        known = sa.select(inquiries.c.inquiry_id)
        with self._database.write() as connection:
            for table in (inquiry_answers, inquiry_parts):
                connection.execute(sa.delete(table).where(table.c.inquiry_id.not_in(known)))
