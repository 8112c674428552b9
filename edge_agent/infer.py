"""One inference over the local socket, for people: `edge-agent infer`. Apps speak the protocol themselves."""

from __future__ import annotations

import http.client
import io
import json
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from edge_agent.errors import EdgeAgentError
from edge_agent.protocol.refusal import shown
from edge_agent.supervisor.listeners import short_path

if TYPE_CHECKING:
    from collections.abc import Mapping

TIMEOUT_S = 60.0
ZIP_BEGINS = b"PK"  # an .npz is a zip
HOW = 'write {"input name": [[1, 2, 3]]}'


class InferError(EdgeAgentError):
    """The inputs can't be read, or the model refused them."""

    code = "infer_failed"


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        with short_path(self._path) as address:
            self.sock.connect(address)


def read_inputs(source: str) -> dict[str, Any]:
    """The inputs of one request: nested lists by input name.

    Args:
        source: JSON (it begins with a bracket), `-` for standard input, or a file; the last two hold JSON or an `.npz`.

    Raises:
        InferError: they can't be read.
    """
    if source.lstrip()[:1] in {"{", "["}:
        return _from_json(source.encode(errors="surrogateescape"), "the text")
    if source == "-":
        name, content = "standard input", sys.stdin.buffer.read()
    else:
        try:
            name, content = source, Path(source).read_bytes()
        except (OSError, ValueError) as exc:
            raise InferError(f"{shown(source)} can't be read: give an .npz or a JSON file, or {HOW}") from exc
    return _from_npz(content, name) if content.startswith(ZIP_BEGINS) else _from_json(content, name)


def _from_npz(content: bytes, name: str) -> dict[str, Any]:
    import zipfile  # noqa: PLC0415  only here
    import zlib  # noqa: PLC0415

    import numpy as np  # noqa: PLC0415

    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return {key: archive[key].tolist() for key in archive.files}
    except (OSError, ValueError, AttributeError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as exc:
        raise InferError(f"{name} can't be read as an .npz of plain arrays") from exc


def _from_json(content: bytes, name: str) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as exc:
        raise InferError(f"{name} is neither JSON nor an .npz: {HOW}") from exc
    if not isinstance(document, dict) or not document:
        raise InferError(f"{name} is no JSON object with the inputs: {HOW}")
    return document


def infer(path: Path, model: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Ask the model behind a socket.

    Args:
        path: its Unix socket.
        model: its name.
        inputs: nested lists by input name; each is sent as the datatype that the model's metadata says.

    Returns:
        The protocol's answer.

    Raises:
        InferError: nobody answers, the model has no such input, or the answer is an error.
    """
    connection = _UnixConnection(path)
    try:
        metadata = _ask(connection, model, "GET", f"/v2/models/{model}")
        body = _request(model, metadata["inputs"], inputs)
        return _ask(connection, model, "POST", f"/v2/models/{model}/infer", body)
    except OSError as exc:
        raise InferError(f"no model {model} is served here: see edge-agent status, or give the --data-dir") from exc
    finally:
        connection.close()


def _ask(
    connection: http.client.HTTPConnection, model: str, method: str, path: str, body: bytes | None = None
) -> dict[str, Any]:
    connection.request(method, path, body=body)
    try:
        response = connection.getresponse()
        answer = json.loads(response.read())
    except (http.client.HTTPException, ValueError) as exc:
        raise InferError(f"model {model} gave an answer that can't be read") from exc
    if response.status != http.client.OK or not isinstance(answer, dict):
        words = answer.get("error") if isinstance(answer, dict) else None
        raise InferError(f"model {model} refused: {words or response.status}")
    return cast("dict[str, Any]", answer)


def _request(model: str, specs: list[dict[str, Any]], inputs: Mapping[str, Any]) -> bytes:
    datatypes = {str(spec["name"]): spec["datatype"] for spec in specs}
    unknown = [name for name in inputs if name not in datatypes]
    if unknown:
        known = ", ".join(f"{spec['name']} ({spec['datatype']} {spec['shape']})" for spec in specs)
        raise InferError(f"model {model} has no input {shown(unknown[0])}: its inputs are {known}")
    tensors = [
        {"name": name, "shape": _shape(values), "datatype": datatypes[name], "data": _flat(values)}
        for name, values in inputs.items()
    ]
    try:
        return json.dumps({"inputs": tensors}, allow_nan=False).encode()
    except ValueError as exc:
        raise InferError("the inputs hold NaN or infinity: send finite numbers") from exc
    except TypeError as exc:
        raise InferError(f"the inputs are no numbers: {exc}") from exc


def _shape(values: object) -> list[int]:
    shape = []
    while isinstance(values, list):
        shape.append(len(values))
        if not values:
            break
        values = values[0]
    return shape


def _flat(values: object) -> list[object]:
    if not isinstance(values, list):
        return [values]
    return [item for value in values for item in _flat(value)]
