"""A manifest as a build makes it, of a model file with any bytes."""

from __future__ import annotations

import hashlib

from edge_agent.protocol.manifest import (
    Encoding,
    FileRole,
    ObjectDescriptor,
    PayloadFile,
    TensorBinding,
    VariantManifest,
)
from edge_agent.protocol.profile import Delegate, RuntimeName
from edge_agent.protocol.signature import Datatype, ModelSignature, TensorSpec

TENSOR = TensorSpec(name="x", shape=(-1, 4))
BINDING = TensorBinding(name="x", index=0, datatype=Datatype.FP32, shape=(1, 4))


def manifest_of(content: bytes, *, recipe: str = "float32") -> VariantManifest:
    sha256 = hashlib.sha256(content).hexdigest()
    return VariantManifest(
        variant_id="v1",
        model="m",
        version="1",
        profile="pi",
        recipe=recipe,
        runtime=RuntimeName.LITERT,
        delegate=Delegate.XNNPACK,
        signature=ModelSignature(inputs=(TENSOR,), outputs=(TENSOR,)),
        inputs=(BINDING,),
        outputs=(BINDING,),
        files=(PayloadFile(role=FileRole.MODEL, sha256=sha256, size_bytes=len(content)),),
        payload_sha256=sha256,
        object=ObjectDescriptor.describe(content, encoding=Encoding.IDENTITY),
    )
