"""The listening sockets."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from edge_agent.layout import Layout
from edge_agent.supervisor.listeners import Listeners, listen_unix

if TYPE_CHECKING:
    from pathlib import Path


def test_listeners_remove_what_a_killed_supervisor_left_of_a_shadow(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.run_dir.mkdir()
    layout.shadow_socket("dep-1").touch()
    layout.model_socket("net").touch()

    Listeners(layout, None).close()

    assert list(layout.run_dir.iterdir()) == [layout.model_socket("net")]


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["models", "reports"])
def test_socket_lets_the_agents_group_connect_whatever_the_umask(tmp_path: Path, kind: socket.SocketKind) -> None:
    before = os.umask(0o022)
    try:
        with listen_unix(tmp_path / "x.sock", kind=kind):
            assert (tmp_path / "x.sock").stat().st_mode & 0o777 == 0o660
    finally:
        os.umask(before)
