"""Waiting for something, and a port for it."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable


T = TypeVar("T")


def until(check: Callable[[], T], *, timeout_s: float = 20.0, what: str | Callable[[], str] = "it") -> T:
    """Wait for something to become true; fails with what was awaited, asked at the end when it is a function."""
    give_up_at = time.monotonic() + timeout_s
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > give_up_at:
            said = what if isinstance(what, str) else what()
            pytest.fail(f"{said} did not happen within {timeout_s} s; last seen: {value!r}")
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
