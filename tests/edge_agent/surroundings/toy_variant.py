"""Variants whose file tells the toy runner how to behave."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import zstandard

from edge_agent.protocol.manifest import (
    Encoding,
    FileRole,
    ObjectDescriptor,
    PayloadFile,
    TensorBinding,
    VariantManifest,
)
from edge_agent.protocol.messages import (
    DesiredDeployment,
)
from edge_agent.protocol.profile import Delegate, RuntimeName
from edge_agent.protocol.signature import Datatype, ModelSignature, TensorSpec

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.protocol.delta import Delta


@dataclass(frozen=True)
class ToyVariant:
    """A variant whose file tells the toy runner how to behave."""

    manifest: VariantManifest
    travelling: bytes
    deltas: tuple[Delta, ...] = ()

    @property
    def text(self) -> bytes:
        return self.manifest.model_dump_json().encode()

    @property
    def manifest_sha256(self) -> str:
        return hashlib.sha256(self.text).hexdigest()

    @property
    def object_sha256(self) -> str:
        return self.manifest.object.sha256

    def wanted(self, deployment_id: str) -> DesiredDeployment:
        return DesiredDeployment(
            deployment_id=deployment_id,
            model=self.manifest.model,
            version=self.manifest.version,
            variant_id=self.manifest.variant_id,
            manifest_sha256=self.manifest_sha256,
            manifest_bytes=len(self.text),
            deltas=self.deltas,
        )

    def laid_out(self, folder: Path) -> tuple[Path, Path, Path]:
        """The files that an unpacking starts from, and where it shall install them."""
        paths = folder / "data", folder / "manifest.json", folder / "variants" / "v"
        paths[0].write_bytes(self.travelling)
        paths[1].write_bytes(self.text)
        return paths


def make_variant(
    model: str = "net",
    version: str = "1",
    behaviour: str = "serve",
    *,
    filler_bytes: int = 3000,
    block_bytes: int = 1024,
    filler_of: ToyVariant | None = None,
    own_bytes: int = 0,
) -> ToyVariant:
    """Incompressible filler makes as many blocks as a test wants; a delta from another's is its `own_bytes`."""
    seed = f"{model}{version}{behaviour}".encode()
    if filler_of is not None:
        seed = filler_of.manifest.model.encode() + filler_of.manifest.version.encode() + b"serve"
    filler = b"".join(hashlib.sha256(seed + i.to_bytes(4, "big")).digest() for i in range(filler_bytes // 32))
    own = random.Random(seed + version.encode()).randbytes(own_bytes)
    told = {"behaviour": behaviour} if filler_of is None else {"behaviour": behaviour, "version": version}
    content = json.dumps(told).encode() + b"\n" + filler + own
    signature = ModelSignature(
        inputs=(TensorSpec(name="x", shape=(-1, 2)),), outputs=(TensorSpec(name="y", shape=(-1,)),)
    )
    travelling = zstandard.compress(content)
    manifest = VariantManifest(
        variant_id=f"{model}-{version}-variant",
        model=model,
        version=version,
        profile="bench",
        recipe="toy",
        runtime=RuntimeName.LITERT,
        delegate=Delegate.NONE,
        signature=signature,
        inputs=(TensorBinding(name="x", index=0, datatype=Datatype.FP32, shape=(1, 2)),),
        outputs=(TensorBinding(name="y", index=0, datatype=Datatype.FP32, shape=(1,)),),
        files=(PayloadFile(role=FileRole.MODEL, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content)),),
        payload_sha256=hashlib.sha256(content).hexdigest(),
        object=ObjectDescriptor.describe(travelling, encoding=Encoding.ZSTD, block_bytes=block_bytes),
    )
    return ToyVariant(manifest, travelling)
