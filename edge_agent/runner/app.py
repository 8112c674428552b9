"""The Open Inference Protocol v2 over HTTP for the one model of this runner: a raw ASGI application.

Decisions: NaN and infinity are refused in inputs (400), because an int8 variant could only guess what they mean; one
request brings at most `MAX_SAMPLES` samples, fewer where they are expected to take more than `BATCH_LIMIT_S`, as
clients and the front wait for an answer only so long; a model of another name on a connection whose port has been
handed to another process is 421, so that the client connects again.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_agent import __version__
from edge_agent.errors import EdgeAgentError, ModelInvokeError
from edge_agent.protocol.profile import FORMAT_OF
from edge_agent.runner.http import (
    COMPLETE_S,
    JSON_LENGTH,
    MAX_BODY_BYTES,
    Answer,
    BadRequestError,
    HeldBodies,
    MisdirectedError,
    NotFoundError,
    TooLargeError,
    error_answer,
    header,
    json_answer,
    parse_model_path,
    read_body,
    require_method,
    send_answer,
    send_refusal,
    server_metadata,
    shown,
)
from edge_agent.runner.statistics import Statistics
from edge_agent.runner.tensors import TensorCodec
from edge_agent.runtimes.convert import InputError, require_finite

if TYPE_CHECKING:
    from edge_agent.protocol.manifest import VariantManifest
    from edge_agent.protocol.signature import ModelSignature
    from edge_agent.runner.engine import Engine, Outcome
    from edge_agent.runner.http import Headers, ModelPath, Receive, Scope, Send
    from edge_agent.runner.listener import Gate
    from edge_agent.runner.shadow.tap import Tap
    from edge_agent.runner.windows import WindowMeter
    from edge_agent.runtimes.base import Array

MAX_SAMPLES = 1024
BATCH_LIMIT_S = 30.0  # by the median of the self-test; one invoke of the interpreter is always allowed
JSON_NUMBER_BYTES = 25  # "-1.7976931348623157e+308,"
LEAST_BODY_BYTES = 1 << 20


def body_limit_bytes(signature: ModelSignature) -> int:
    """What the largest allowed batch can take as JSON, at most `MAX_BODY_BYTES`, at least one sample."""
    sample = sum(spec.sample_elements for spec in signature.inputs) * JSON_NUMBER_BYTES
    fixed = max((spec.shape[0] for spec in signature.inputs if spec.shape), default=1)
    one = sample * max(1, fixed)
    return max(LEAST_BODY_BYTES, one, min(MAX_BODY_BYTES, one * MAX_SAMPLES))


class RunnerApp:
    """Answers for one model."""

    def __init__(self, manifest: VariantManifest, engine: Engine, meter: WindowMeter) -> None:
        self.statistics = Statistics()
        self.meter = meter
        self.tap: Tap | None = None  # while a shadow listens
        self._manifest, self._engine = manifest, engine
        self._codec = TensorCodec(manifest.signature)
        in_time = engine.samples_within(BATCH_LIMIT_S * 1e3)
        self._most_samples = min(MAX_SAMPLES, in_time)
        self._most_because = f", more would take over {BATCH_LIMIT_S:.0f} s here" if in_time < MAX_SAMPLES else ""
        # a proven model fails on floats for reasons of its own, on integers because one is beyond a table
        self._takes_integers = any("INT" in spec.datatype for spec in manifest.signature.inputs)
        self._body_limit_bytes = body_limit_bytes(manifest.signature)
        self._held = HeldBodies(self._body_limit_bytes)
        root = f"/v2/models/{manifest.model}"
        self._infer_paths = {f"{root}/infer", f"{root}/versions/{manifest.version}/infer"}

    async def __call__(self, gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        try:
            if scope["method"] == "POST" and scope["path"] in self._infer_paths:
                answer = await self._infer(scope, receive)
                if answer is None:
                    return  # the client has gone
            else:
                answer = self._answer(gate, scope)
        except EdgeAgentError as exc:
            answer = error_answer(exc)
        if answer.close:
            await send_refusal(receive, send, answer)
        else:
            await send_answer(send, answer, close=gate.closing)

    async def _infer(self, scope: Scope, receive: Receive) -> Answer | None:
        began_s = time.perf_counter()
        headers = scope["headers"]
        body: bytes | None = None
        try:
            body = await read_body(headers, receive, self._held, self._body_limit_bytes)
            if body is None:
                self.meter.fail("disconnected")
                return None
            began_s = time.perf_counter()
            # read while others were invoked in this very loop: that is waiting too
            return await self._run(headers, body, began_s, waited_ms=(began_s - scope["state"][COMPLETE_S]) * 1e3)
        except MemoryError:
            self._failed(TooLargeError.code, began_s)
            raise TooLargeError(
                "there is not enough memory here for a request of this size: send fewer samples"
            ) from None
        except EdgeAgentError as exc:
            self._failed("bad_request" if isinstance(exc, InputError) else exc.code, began_s)
            if isinstance(exc, ModelInvokeError) and self._takes_integers:
                raise BadRequestError(f"the model can't be run on these inputs: {exc}") from exc
            raise
        finally:
            if body is not None:
                self._held.release(len(body))

    async def _run(self, headers: Headers, body: bytes, began_s: float, *, waited_ms: float) -> Answer:
        request = self._codec.decode(body, header(headers, JSON_LENGTH))
        rows = self._engine.model.check(request.arrays)
        if rows > self._most_samples:
            raise BadRequestError(
                f"{rows} samples in one request, at most {self._most_samples} are allowed{self._most_because}"
            )
        require_finite(request.arrays)
        decoded_s = time.perf_counter()
        outcome = await self._engine.run(request.arrays, rows)
        outcome = outcome._replace(queue_ms=waited_ms + outcome.queue_ms)
        invoked_s = time.perf_counter()
        model, version = self._manifest.model, self._manifest.version
        answer = self._codec.encode(request, outcome.outputs, model=model, version=version)
        if self.tap is not None:  # once this answer has left
            asyncio.get_running_loop().call_soon(self._copy, request.arrays, outcome.outputs, outcome.invoke_ms)
        self._count(outcome, rows, (decoded_s - began_s) * 1e3, (time.perf_counter() - invoked_s) * 1e3)
        return answer

    def _count(self, outcome: Outcome, rows: int, input_ms: float, output_ms: float) -> None:
        self.meter.observe(samples=rows, queue_ms=outcome.queue_ms, preprocess_ms=input_ms, invoke_ms=outcome.invoke_ms)
        if not all(np.isfinite(array).all() for array in outcome.outputs.values()):
            self.meter.note("nonfinite_output")
        durations = (outcome.queue_ms, input_ms, outcome.invoke_ms, output_ms)
        self.statistics.succeed(samples=rows, durations=durations, unix_s=time.time())

    def _copy(self, inputs: dict[str, Array], outputs: dict[str, Array], invoke_ms: float) -> None:
        if self.tap is not None:
            self.tap.answered(inputs, outputs, invoke_ms)

    def _failed(self, kind: str, began_s: float) -> None:
        self.meter.fail(kind)
        self.statistics.fail((time.perf_counter() - began_s) * 1e3)

    def _answer(self, gate: Gate, scope: Scope) -> Answer:
        path = scope["path"]
        model_path = None if path == "/v2/models/stats" else parse_model_path(path)
        if model_path is not None:
            return self._answer_model(gate, scope, model_path)
        if path == "/v2/repository/index":
            require_method(scope, "GET", "POST")
            index = {"name": self._manifest.model, "version": self._manifest.version, "state": "READY", "reason": ""}
            return json_answer([index])
        answers: dict[str, Any] = {
            "/v2": server_metadata(__version__),
            "/v2/health/live": {"live": True},
            "/v2/health/ready": {"ready": True},
        }
        if path == "/v2/models/stats":
            answers[path] = self._stats()
        document = answers.get(path.rstrip("/"))
        if document is None:
            raise NotFoundError(f"there is nothing at {shown(path)}; the protocol begins at /v2")
        require_method(scope, "GET")
        return json_answer(document)

    def _answer_model(self, gate: Gate, scope: Scope, path: ModelPath) -> Answer:
        manifest = self._manifest
        if path.model != manifest.model:
            if gate.given_up:
                raise MisdirectedError(f"connect again: this connection reaches only {manifest.model}")
            raise NotFoundError(f"there is no model {shown(path.model)} here, but {manifest.model}")
        if path.version is not None and path.version != manifest.version:
            raise NotFoundError(
                f"model {manifest.model} has the version {manifest.version} here, not {shown(path.version)}"
            )
        require_method(scope, "POST" if path.verb == "infer" else "GET")
        if path.verb == "ready":
            return json_answer({"name": manifest.model, "ready": True})
        if path.verb == "stats":
            return json_answer(self._stats())
        return json_answer(self._metadata())

    def _stats(self) -> dict[str, Any]:
        manifest = self._manifest
        return {"model_stats": [self.statistics.document(model=manifest.model, version=manifest.version)]}

    def _metadata(self) -> dict[str, Any]:
        manifest = self._manifest
        return {
            "name": manifest.model,
            "versions": [manifest.version],
            "platform": f"{manifest.runtime}_{FORMAT_OF[manifest.runtime]}",
            "inputs": [_tensor(spec.name, spec.datatype, spec.shape) for spec in manifest.signature.inputs],
            "outputs": [_tensor(spec.name, spec.datatype, spec.shape) for spec in manifest.signature.outputs],
            "parameters": {"variant": manifest.variant_id, "recipe": manifest.recipe, "labels": manifest.labels},
        }


def _tensor(name: str, datatype: str, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape}
