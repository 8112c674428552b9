"""A real registry for simulated devices: one small model in two versions, and a fleet that has joined."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import sqlalchemy as sa
import torch

from benchmarks.simulator.credentials import issue
from benchmarks.simulator.process import SimulationError
from edge_agent.probe.read import probe
from edge_agent.protocol.profile import RuntimeName
from server.client import RegistryClient
from server.database import tables
from server.database.connect import Database
from server.fleet.secrets import hash_of, new_key
from server.schemas.catalogue import PushForm
from server.schemas.rollouts import RolloutOptions, RolloutRequest, RolloutState
from server.stack import stack_state
from server.trust.folder import TrustFolder

if TYPE_CHECKING:
    from benchmarks.simulator.credentials import Credential
    from examples.demo.stack import Stack
    from server.stack import StackState

MODEL, VERSIONS, PROFILE = "net", ("1", "2"), "bench"
BUILD_S = 120.0


@dataclass(frozen=True)
class Cost:
    """What the processes of a registry have taken, by name."""

    rss_mb: dict[str, float]
    cpu_s: dict[str, float]

    def since(self, before: Cost) -> Cost:
        """The same memory, and only the time that came after."""
        spent = {name: seconds - before.cpu_s.get(name, 0.0) for name, seconds in self.cpu_s.items()}
        return Cost(self.rss_mb, spent)


class FleetRegistry:
    """`edge-registry up` with a fleet."""

    def __init__(self, stack: Stack) -> None:
        """Args: `stack`: the processes; its registry was not started yet."""
        self._stack = stack
        url = stack.start_registry(SHOAL_TELEMETRY_INTERVAL_S="60")
        self.client = RegistryClient(url, ca=stack.root)

    @property
    def state(self) -> StackState:
        """Addresses and process ids."""
        state = stack_state(self._stack.data_dir)
        assert state is not None
        return state

    def prepare(self) -> None:
        """Push both versions and build their variants."""
        host = probe(data_dir=self._stack.data_dir, runtimes=(RuntimeName.LITERT,), name=PROFILE)
        self.client.add_profile(host.model_copy(update={"threads": 1, "npu": None}))
        for version in VERSIONS:
            self._push(version)
            for job in self.client.build_variants(MODEL, version, recipes=("float32",)):
                self.client.wait_for_job(job.job_id, timeout_s=BUILD_S)

    def _push(self, version: str) -> None:
        torch.manual_seed(int(version))
        network = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
        features = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
        with torch.no_grad():
            target = network(torch.from_numpy(features)).numpy()
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "data.npz"
            np.savez(data, features=features, target=target)
            pushed = self.client.push_module(
                Named(network),
                (torch.zeros(2, 8),),
                name=MODEL,
                version=version,
                data=data,
                form=PushForm.model_validate({"task": "regression", "metric": "r2"}),
            )
        self.client.wait_for_job(pushed.job_id, timeout_s=BUILD_S)

    def enrol(self, count: int) -> dict[str, Credential]:
        """Let devices enrol, in one transaction, since that is not what is measured; what each shows, by its id."""
        now, trust = time.time(), TrustFolder(self._stack.data_dir / "trust")
        folder = self._stack.folder / "credentials"
        folder.mkdir(mode=0o700)
        authority = trust.authority()
        issued = {
            device_id: issue(authority, trust.paths.root, folder, device_id, now=now)
            for device_id in (f"device-{number:05d}" for number in range(count))
        }
        rows = [
            {
                "device_id": device_id,
                "profile": PROFILE,
                "labels": {},
                "key_sha256": hash_of(new_key()),
                "facts": {},
                "joined_at": now,
            }
            for device_id in issued
        ]
        database = Database(f"sqlite:///{self._stack.data_dir / 'registry.db'}")
        with database.write() as connection:
            connection.execute(sa.insert(tables.devices), rows)
            connection.execute(sa.insert(tables.certificates), [row for _, row in issued.values()])
        database.close()
        return {device_id: credential for device_id, (credential, _) in issued.items()}

    def wait_online(self, count: int, *, timeout_s: float) -> None:
        """Wait until the registry knows of so many devices that they are there."""
        give_up_s = time.monotonic() + timeout_s
        while (online := self.presences()["online"]) < count:
            if time.monotonic() > give_up_s:
                raise SimulationError(f"after {timeout_s:.0f} s the registry sees {online} of {count} devices online")
            time.sleep(0.5)

    def presences(self) -> Counter[str]:
        """How many devices are online, offline, unknown."""
        return Counter(device.presence for device in self.client.list_devices())

    def roll_out(self, version: str, *, max_failures: int) -> str:
        """Offer a version to everybody at once; the id of the rollout."""
        options = RolloutOptions(max_failures=max_failures)
        return self.client.start_rollout(RolloutRequest(model=MODEL, version=version, options=options)).rollout_id

    def wait_finished(self, rollout_id: str) -> None:
        """Wait until a rollout is at an end, however long that takes."""
        while self.client.get_rollout(rollout_id).state in {RolloutState.PREPARING, RolloutState.RUNNING}:
            time.sleep(0.5)

    def sessions(self) -> dict[str, int]:
        """The number of each device's latest session that the registry knows."""
        states = tables.device_states.c
        database = Database(f"sqlite:///{self._stack.data_dir / 'registry.db'}")
        with database.read() as connection:
            found = connection.execute(sa.select(states.device_id, states.session_counter)).all()
        database.close()
        return {row.device_id: row.session_counter for row in found}

    def kill_broker(self) -> None:
        """`kill -9`; `up` starts it again."""
        os.kill(self.state.processes["mosquitto"].pid, signal.SIGKILL)

    def cost(self) -> Cost:
        """Memory and time until now."""
        parts = {name: psutil.Process(one.pid) for name, one in self.state.processes.items()}
        return Cost(
            rss_mb={name: process.memory_info().rss / 1e6 for name, process in parts.items()},
            cpu_s={name: sum(process.cpu_times()[:2]) for name, process in parts.items()},
        )


class Named(torch.nn.Module):
    """A network whose input has a name."""

    def __init__(self, layers: torch.nn.Module) -> None:
        """Args: `layers`: the network."""
        super().__init__()
        self.layers = layers

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(batch, 8) to (batch, 1)."""
        answer: torch.Tensor = self.layers(features)
        return answer
