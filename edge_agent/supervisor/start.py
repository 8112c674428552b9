"""What `edge-agent start` does once its flags are read: lock, identity, supervisor."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING

from edge_agent.layout import Layout
from edge_agent.link import identity as identities
from edge_agent.runtimes.registry import installed_runtimes
from edge_agent.supervisor.agent import Agent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge_agent.settings import AgentSettings


def start(
    settings: AgentSettings,
    *,
    registry_url: str,
    token: str | None,
    device_id: str | None,
    profile: str | None,
    labels: Mapping[str, str],
) -> int:
    """Join if need be, then run until told to stop; the exit code.

    Raises:
        EdgeAgentError: what the user can put right, in one sentence.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    layout = Layout(settings.data_dir)
    with identities.lock(layout):
        runtimes = installed_runtimes()
        identity = identities.load(layout)
        facts: Mapping[str, str] = {}
        if identity is None:
            from edge_agent.probe.read import facts_of_this_machine  # noqa: PLC0415  once in a device's life

            facts = facts_of_this_machine(layout.root)
        identity = identities.ensure(
            layout,
            registry_url=registry_url,
            token=token,
            device_id=device_id,
            profile=profile,
            labels=labels,
            runtimes={name.value: version for name, version in runtimes.items()},
            facts=facts,
        )
        os.umask(0o022)
        known = None if settings.runner_command else runtimes  # another Python's runner speaks for itself
        return Agent(settings, identity, runtimes=known).run()
