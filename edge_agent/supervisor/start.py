"""What `edge-agent start` does once its flags are read: lock, identity, supervisor."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from edge_agent.errors import EdgeAgentError
from edge_agent.layout import Layout
from edge_agent.link import identity as identities
from edge_agent.link.identity import NotEnrolledError
from edge_agent.logbook.handler import RingHandler
from edge_agent.logbook.ring import LogRing
from edge_agent.runtimes.registry import installed_runtimes
from edge_agent.supervisor.agent import Agent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge_agent.settings import AgentSettings


class DiskUnusableError(EdgeAgentError):
    """The file system of the data directory takes nothing, and an agent can't begin without writing."""

    code = "disk_unusable"


def start(settings: AgentSettings) -> int:
    """Run until told to stop; the exit code.

    Raises:
        EdgeAgentError: what the user can put right, in one sentence.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    layout = Layout(settings.data_dir)
    with ExitStack() as stack:
        with _needing_the_disk(layout):
            stack.enter_context(identities.lock(layout))
            runtimes = installed_runtimes()
            ring = LogRing(layout.log_dir, limit_bytes=settings.log_limit_bytes)
            identity = identities.load(layout)
            if identity is None:
                raise NotEnrolledError(
                    f"{layout.root} belongs to no registry yet: edge-agent enroll URL --token TOKEN "
                    "(edge-registry token create)"
                )
            os.umask(0o022)
            logging.getLogger().addHandler(RingHandler(ring, secrets=(identity.key,)))
            known = None if settings.runner_command else runtimes  # another Python's runner speaks for itself
            agent = Agent(settings, identity, runtimes=known)
        return agent.run()  # from here on a disk that takes nothing is survived


@contextmanager
def _needing_the_disk(layout: Layout) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
            raise
        raise DiskUnusableError(_advice(layout, exc.strerror or str(exc))) from exc
    except sqlite3.OperationalError as exc:
        raise DiskUnusableError(_advice(layout, str(exc))) from exc


def _advice(layout: Layout, words: str) -> str:
    return f"can't write to {layout.root} ({words}): free some space or make it writable, then start again"
