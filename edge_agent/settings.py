"""The agent's settings: one model, filled from the command line; the defaults suit a small board."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from edge_agent.layout import default_data_dir
from edge_agent.protocol.base import Bytes, Seconds, StrictWire


class Transport(StrEnum):
    """How objects travel to this device."""

    MQTT = "mqtt"
    HTTPS = "https"


class AgentSettings(StrictWire):
    """How one agent runs."""

    data_dir: Path = Field(default_factory=default_data_dir)
    listen: str = "127.0.0.1:8080"  # or "unix": no port, only the models' Unix sockets
    transport: Transport = Transport.MQTT
    max_download_rate_bytes_s: Annotated[int | None, Field(ge=1024)] = None  # None: as fast as it comes
    metered: bool = False  # every byte costs: nothing is received that was not asked for
    storage_budget_bytes: Annotated[Bytes | None, Field(gt=0)] = None  # None: the profile's, else half of what is free
    memory_budget_bytes: Annotated[Bytes | None, Field(gt=0)] = None  # None: what the machine has left
    spool_limit_bytes: Bytes = 16 << 20
    spool_limit_age_s: Seconds = 14 * 86400.0
    log_limit_bytes: Annotated[Bytes, Field(ge=16 << 10, le=4 << 20)] = 512 << 10  # of its own log on disk
    keepalive_s: Annotated[int, Field(ge=5, le=3600)] = 60
    will_delay_s: Annotated[int, Field(ge=0, le=3600)] = 30
    session_expiry_s: Annotated[int, Field(ge=60)] = 86400  # longer than the will delay: no false offline
    reconnect_first_s: Seconds = 1.0
    reconnect_cap_s: Seconds = 60.0
    ask_interval_s: Seconds = 300.0  # silence after which the desired state is asked for again
    first_pass_wait_s: Seconds = 0.5
    quiet_s: Seconds = 1.0
    answer_s: Seconds = 10.0
    ack_wait_s: Seconds = 60.0
    runner_start_s: Seconds = 120.0  # to load a file and prove it
    runner_silence_s: Seconds = 15.0  # without a beat: hung
    invoke_limit_s: Seconds = 60.0  # a single one, not a whole batch; longer: hung
    drain_s: Seconds = 60.0
    runner_command: tuple[str, ...] = ()  # another Python's runner; empty: this Python's
    front_command: tuple[str, ...] = ()
    retry_first_s: Seconds = 5.0
    restart_first_s: Seconds = 0.5

    @field_validator("listen")
    @classmethod
    def _has_a_port(cls, value: str) -> str:
        parse_listen(value)
        return value


def parse_listen(value: str) -> tuple[str, int] | None:
    """Host and port; None for `unix`.

    Raises:
        ValueError: neither `unix` nor HOST:PORT.
    """
    if value == "unix":
        return None
    host, colon, port = value.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:  # noqa: PLR2004  the largest port
        raise ValueError(f"--listen is {value!r}: write HOST:PORT such as 127.0.0.1:8080, or unix")
    return host.strip("[]"), int(port)
