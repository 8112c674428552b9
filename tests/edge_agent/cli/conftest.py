"""The surroundings of a device, shared with the supervisor's tests."""

from __future__ import annotations

from tests.edge_agent.supervisor.conftest import broker, device, http_registry, registry

__all__ = ["broker", "device", "http_registry", "registry"]
