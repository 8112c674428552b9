"""An agent's data directory as an application sees it: pointers, variant folders and the report socket."""

from __future__ import annotations

import hashlib
import shutil
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from edge_agent.layout import Layout
from edge_agent.pointer import ActivePointer
from edge_agent.protocol.messages import TelemetryReport, decode
from edge_agent.storage.variants import VariantFolders
from edge_agent.supervisor.listeners import listen_unix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from edge_agent.protocol.manifest import VariantManifest
    from edge_agent.protocol.signature import ModelSignature


class DataDir:
    """What the supervisor would have left on the disk."""

    def __init__(self, root: Path, manifest_of: Callable[..., VariantManifest]) -> None:
        self.layout = Layout(root)
        self.folders = VariantFolders(self.layout)
        self.layout.run_dir.mkdir()
        self._manifest_of = manifest_of
        self.reports: socket.socket | None = None

    def activate(
        self,
        file: Path,
        signature: ModelSignature,
        *,
        deployment: str = "d-1",
        model: str = "tiny",
        version: str = "1",
        window_s: float = 10.0,
        **manifest: Any,  # noqa: ANN401  of make_manifest
    ) -> Path:
        """Install a variant and make it the active one; the installed model file."""
        described = self._manifest_of(file, signature, model=model, version=version, **manifest)
        text = described.model_dump_json().encode()
        folder = self.layout.variant_dir(hashlib.sha256(text).hexdigest())
        folder.mkdir(exist_ok=True)
        (folder / "manifest.json").write_bytes(text)
        shutil.copy(file, folder / "model")
        pointer = ActivePointer(
            deployment_id=deployment,
            model=model,
            version=version,
            variant_id=described.variant_id,
            variant_dir=str(folder.relative_to(self.layout.root)),
            model_sha256=described.model_file.sha256,
            window_s=window_s,
        )
        self.folders.point(pointer)
        return folder / "model"

    def listen(self) -> None:
        """Be the agent that takes reports."""
        self.reports = listen_unix(self.layout.report_socket, kind=socket.SOCK_DGRAM)
        self.reports.settimeout(5)

    def report(self) -> TelemetryReport:
        assert self.reports is not None
        return decode(TelemetryReport, self.reports.recv(1 << 20))


def until(condition: Callable[[], bool], *, timeout_s: float = 10.0) -> None:
    ends_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends_s, "it did not come true"
        time.sleep(0.01)


@pytest.fixture
def data_dir(tmp_path: Path, manifest_of: Callable[..., VariantManifest]) -> Iterator[DataDir]:
    root = tmp_path / "agent"
    root.mkdir()
    made = DataDir(root, manifest_of)
    yield made
    if made.reports is not None:
        made.reports.close()
