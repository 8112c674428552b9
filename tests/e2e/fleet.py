"""One registry and its devices, in the words of a story."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from server.client import RegistryClientError
from server.schemas.rollouts import Rollout, RolloutOptions, RolloutRequest
from server.schemas.telemetry import GroupBy
from tests.processes import COMMANDS, TELEMETRY_WINDOW_S, RunningAgent, RunningRegistry, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass
class Fleet:
    """One registry and its agents, for one test."""

    registry: RunningRegistry
    folder: Path
    agents: list[RunningAgent] = field(default_factory=list)

    def device(
        self,
        device_id: str,
        *,
        commands: Path = COMMANDS,
        flags: tuple[str, ...] = (),
        prefix: tuple[str, ...] = (),
    ) -> RunningAgent:
        """An agent that was not started yet."""
        return RunningAgent(
            data_dir=self.folder / device_id,
            registry_url=self.registry.url,
            device_id=device_id,
            commands=commands,
            flags=flags,
            prefix=prefix,
        )

    def join(
        self,
        device_id: str,
        profile: str = "bench",
        *,
        commands: Path = COMMANDS,
        flags: tuple[str, ...] = (),
        labels: tuple[str, ...] = (),
    ) -> RunningAgent:
        """Start a new device; `wait_online` waits until the registry has heard of it."""
        with self.registry.client() as client:
            token = client.create_token(profile=profile).token
        agent = self.device(device_id, commands=commands, flags=flags)
        self.agents.append(agent)
        labelled = [part for label in labels for part in ("--label", label)]
        agent.enroll(token, *labelled)
        agent.start()
        return agent

    def wait_online(self, *agents: RunningAgent) -> None:
        """Wait until the registry has heard of these devices."""
        for device_id in [agent.device_id for agent in agents]:
            wait_until(partial(self._is_online, device_id), f"{device_id} is online")

    def _is_online(self, device_id: str) -> bool:
        return self.presence(device_id) == "online"

    def presence(self, device_id: str) -> str:
        """What the registry knows of a device's connection."""
        with self.registry.client() as client:
            return next((d.presence for d in client.list_devices() if d.device_id == device_id), "never")

    def roll_out(
        self, version: str, *, model: str = "tiny", to: str = "", waves: str = "100%", **options: float
    ) -> str:
        """Start a rollout; its id."""
        from server.rollouts.plan import parse_waves  # noqa: PLC0415  as the CLI does

        request = RolloutRequest(
            model=model,
            version=version,
            selector=to,
            waves=parse_waves(waves),
            # these devices infer little: no wave waits for measurements unless a test asks for it
            options=RolloutOptions.model_validate({"gate_deadline_s": 0, **options}),
        )
        with self.registry.client() as client:
            return client.start_rollout(request).rollout_id

    def rollout(self, rollout_id: str) -> Rollout:
        """Where it stands."""
        with self.registry.client() as client:
            return client.get_rollout(rollout_id)

    def wait_for(self, rollout_id: str, state: str = "finished", *, timeout_s: float = 60.0) -> Rollout:
        """Wait until a rollout is in a state; the API may be away meanwhile."""
        last: list[Rollout] = []

        def reached() -> bool:
            with contextlib.suppress(RegistryClientError):
                last[:] = [self.rollout(rollout_id)]
            return bool(last) and last[0].state == state

        deadline_s = time.monotonic() + timeout_s
        while not reached():
            assert time.monotonic() < deadline_s, f"the rollout is not {state} after {timeout_s:g} s: {last}"
            time.sleep(0.1)
        return last[0]

    def counted(self, device_id: str, version: str | None = None) -> int:
        """Inferences of one device that the registry has counted."""
        with self.registry.client() as client:
            rows = client.get_telemetry(by=("device",), version=version)
        return sum(row.inferences for row in rows if row.group[GroupBy.DEVICE] == device_id)

    def wait_counted(self, expected: Mapping[str, int], *, version: str | None = None) -> None:
        """Wait until as many inferences of each device are counted; then for a while, so that one too many is seen."""
        for device_id, inferences in expected.items():
            wait_until(
                partial(lambda d, n: self.counted(d, version) >= n, device_id, inferences),
                f"{inferences} inferences of {device_id} are counted (it is {self.counted(device_id, version)})",
                timeout_s=20.0,
            )
        time.sleep(1.5 * TELEMETRY_WINDOW_S)
        assert {device_id: self.counted(device_id, version) for device_id in expected} == expected

    def settled_count(self, device_id: str) -> int:
        """What the registry has counted once nothing has come for three windows."""
        last, quiet_since_s = -1, time.monotonic()
        while time.monotonic() - quiet_since_s < 3 * TELEMETRY_WINDOW_S:
            if (now := self.counted(device_id)) != last:
                last, quiet_since_s = now, time.monotonic()
            time.sleep(0.1)
        return last

    def stop_agents(self) -> None:
        """Stop the agents; all are stopped even if one does not like it."""
        with contextlib.ExitStack() as stack:
            for agent in self.agents:
                stack.callback(agent.stop)

    def close(self) -> None:
        """Stop the agents, then the registry."""
        with contextlib.ExitStack() as stack:
            stack.callback(self.registry.stop)
            stack.callback(self.stop_agents)
