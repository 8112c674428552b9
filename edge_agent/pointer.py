"""The pointer to a model's active variant, as the supervisor writes it and in-process models read it."""

from __future__ import annotations

from edge_agent.protocol.base import Name, Seconds, Sha256, Wire


class ActivePointer(Wire):
    """Which variant answers for a model now. `variant_dir` is relative to the data directory."""

    deployment_id: Name
    model: Name
    version: Name
    variant_id: Name
    variant_dir: str
    model_sha256: Sha256
    window_s: Seconds = 10.0

    @property
    def manifest_sha256(self) -> str:
        """What the variant's folder is named by."""
        return self.variant_dir.rpartition("/")[2]
