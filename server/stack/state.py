"""`stack.json`: the ports that devices know by now, and where the running stack can be reached. Written atomically."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from server.durable import replace_file
from server.places import STATE_NAME
from server.stack.errors import StackError


class ProcessId(BaseModel):
    """A process that cannot be mistaken for a later one with the same number."""

    model_config = ConfigDict(frozen=True)

    pid: int
    start_ticks: int

    def is_alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        return start_ticks(self.pid) == self.start_ticks


class StackState(BaseModel):
    """What `stack.json` holds."""

    version: int = 1
    host: str
    ports: dict[str, int] = Field(description="chosen on the first start, kept from then on")
    api_url: str
    mqtt_url: str
    s3_endpoint: str
    s3_bucket: str
    supervisor: ProcessId | None = Field(None, description="none: stopped cleanly")
    processes: dict[str, ProcessId] = Field(default_factory=dict)

    @property
    def is_running(self) -> bool:
        """Whether the `up` that wrote this still runs."""
        return self.supervisor is not None and self.supervisor.is_alive()


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if there is no such process or it is a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return None
    # The name in parentheses may hold anything, blanks and parentheses too: split behind the last one.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else int(fields[19])


def process_id(pid: int) -> ProcessId | None:
    """Identify a living process."""
    ticks = start_ticks(pid)
    return None if ticks is None else ProcessId(pid=pid, start_ticks=ticks)


def stack_state(data_dir: Path) -> StackState | None:
    """Addresses of the stack in this data folder; None if it never came up. Look at `is_running` too.

    Raises:
        StackError: the file is there and cannot be read.
    """
    path = data_dir / STATE_NAME
    try:
        return StackState.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise StackError(f"{path} cannot be read: {exc.strerror}.") from exc
    except ValidationError as exc:
        raise StackError(
            f"{path} is damaged: restore it, or remove it and give devices the new address that `up` then chooses."
        ) from exc


def write_state(data_dir: Path, state: StackState) -> None:
    """Replace the file as a whole: a reader, or a power cut, sees the old one or the new one."""
    replace_file(data_dir / STATE_NAME, state.model_dump_json(indent=2).encode())
