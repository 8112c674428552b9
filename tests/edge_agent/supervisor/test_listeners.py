"""The listening sockets."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from edge_agent.supervisor.listeners import listen_unix

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["models", "reports"])
def test_socket_lets_the_agents_group_connect_whatever_the_umask(tmp_path: Path, kind: socket.SocketKind) -> None:
    before = os.umask(0o022)
    try:
        with listen_unix(tmp_path / "x.sock", kind=kind):
            assert (tmp_path / "x.sock").stat().st_mode & 0o777 == 0o660
    finally:
        os.umask(before)
