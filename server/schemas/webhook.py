"""How the operator's webhook is doing: what was posted to it last, what waits, and when the next try comes."""

from __future__ import annotations

from edge_agent.protocol.base import Name
from server.schemas.common import Document


class Delivery(Document):
    """What became of one decision, by the last attempt to tell it."""

    decision_id: int
    rollout_id: str
    model: Name
    version: Name
    action: str
    decided_at: float
    tried_at: float
    attempts: int
    fate: str  # taken | refused: told no more | later: told again | skipped: over a day old
    status: int | None = None  # of the HTTP answer; None: none came
    failure: str = ""


class WebhookStatus(Document):
    """The webhook, as the controller that leads has written it down."""

    receiver: str = ""  # scheme, host and port; the rest of its address may be a secret. Empty: none is set
    signed: bool = False
    waiting: int = 0  # decisions that are still to be told
    waiting_since: float | None = None  # when the first of them was decided
    next_try_at: float | None = None  # after a failure; None: the next look takes what is there
    deliveries: tuple[Delivery, ...] = ()  # newest first
