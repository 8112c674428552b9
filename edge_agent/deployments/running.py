"""A living runner, as the core sees it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Phase(Enum):
    """Where a runner stands, as the core sees it."""

    STARTING = "starting"
    PROVEN = "proven"
    LEAVING = "leaving"


@dataclass(slots=True)
class Running:
    """A living runner."""

    phase: Phase = Phase.STARTING
    serving: bool = False
    hurried: bool = False
    inferences: int = 0
    no_shadow: str = ""  # why it is not to run as one, where that was asked for
    ahead: bool = False  # it proves what is to lie ready, and leaves once it has
