"""What runs on a device: the supervisor, the runners, and the wire contract that the registry shares.

`edge_agent.load("model")` gives an application on the device an in-process model that follows updates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_agent.inprocess import LiveModel

__all__ = ["load"]
__version__ = "0.1.0"


def load(model: str, *, data_dir: str | None = None) -> LiveModel:
    """Open the active variant of a model that this device's agent manages; it follows updates by itself.

    Args:
        model: the model's name.
        data_dir: the agent's data directory; by default `SHOAL_AGENT_DIR`, then the agent's own default.

    Raises:
        edge_agent.errors.ModelNotActiveError: the agent has no active variant of this model.
    """
    from edge_agent.inprocess import LiveModel  # noqa: PLC0415  numpy and the interpreter load only for those who infer

    return LiveModel.open(model, data_dir=data_dir)
