import os
import random
import socket
import stat
from pathlib import Path

import pytest

from server.places import STATE_NAME
from server.stack.errors import AlreadyRunningError, PortTakenError, StackError
from server.stack.lock import DataDirLock
from server.stack.objects import KEYS_NAME, embedded_keys
from server.stack.plan import netloc
from server.stack.ports import choose_ports
from server.stack.state import ProcessId, StackState, process_id, stack_state, write_state

HERE = ["127.0.0.1"]


def some_state(**values: object) -> StackState:
    return StackState.model_validate(
        {
            "host": "h",
            "ports": {"api": 1},
            "api_url": "http://h:1",
            "mqtt_url": "m",
            "s3_endpoint": "s",
            "s3_bucket": "b",
            **values,
        }
    )


def test_state_written_is_read_back_and_leaves_no_other_file(tmp_path: Path) -> None:
    assert stack_state(tmp_path) is None
    state = some_state(supervisor=process_id(os.getpid()))
    write_state(tmp_path, state)
    assert stack_state(tmp_path) == state
    assert state.is_running
    assert [path.name for path in tmp_path.iterdir()] == [STATE_NAME]


def test_state_of_a_pid_used_again_by_another_process_is_not_running() -> None:
    assert not some_state(supervisor=ProcessId(pid=os.getpid(), start_ticks=1)).is_running
    assert not some_state().is_running


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"host": 1}', b"\xff\xff"])
def test_state_damaged_says_what_to_do(tmp_path: Path, content: bytes) -> None:
    (tmp_path / STATE_NAME).write_bytes(content)
    with pytest.raises(StackError, match="is damaged: restore it, or remove it"):
        stack_state(tmp_path)


def test_lock_second_holder_is_refused_and_after_release_accepted(tmp_path: Path) -> None:
    with DataDirLock(tmp_path), pytest.raises(AlreadyRunningError, match=f"pid {os.getpid()}"):
        DataDirLock(tmp_path).__enter__()
    with DataDirLock(tmp_path):
        pass


def test_lock_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StackError, match="cannot be used"):
        DataDirLock(tmp_path / "file").__enter__()


def test_keys_are_made_once_and_only_the_owner_reads_them(tmp_path: Path) -> None:
    keys = embedded_keys(tmp_path)
    assert embedded_keys(tmp_path) == keys
    assert stat.S_IMODE((tmp_path / KEYS_NAME).stat().st_mode) == 0o600
    (tmp_path / KEYS_NAME).write_text("{}")
    with pytest.raises(StackError, match="is damaged"):
        embedded_keys(tmp_path)


def test_choose_ports_gives_different_free_ports_and_keeps_the_fixed_one() -> None:
    first = choose_ports("abcdefgh", fixed={}, addresses=HERE, chance=random.Random(1))
    assert len(set(first.values())) == 8
    fixed = {"a": first["a"]}
    assert choose_ports("ab", fixed=fixed, addresses=HERE, chance=random.Random(2))["a"] == first["a"]


def test_choose_ports_that_somebody_has_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortTakenError, match=f"Port {port} for mqtt"):
            choose_ports(["mqtt"], fixed={"mqtt": port}, addresses=HERE, chance=random.Random(1))


def test_choose_ports_on_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(PortTakenError, match=r"192\.0\.2\.7"):
        choose_ports(["api"], fixed={}, addresses=["192.0.2.7"], chance=random.Random(1))


@pytest.mark.parametrize(("host", "expected"), [("h", "h:1"), ("::1", "[::1]:1"), ("[::1]", "[::1]:1")])
def test_netloc_puts_ipv6_in_brackets(host: str, expected: str) -> None:
    assert netloc(host, 1) == expected
