"""A model inside an application's own process: it follows what the agent makes active, and reports its latency."""

from edge_agent.inprocess.live import LiveModel

__all__ = ["LiveModel"]
