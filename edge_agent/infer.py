"""One inference over the local socket, for people: `edge-agent infer`. Apps speak the protocol themselves."""

from __future__ import annotations

import http.client
import json
import socket
from typing import TYPE_CHECKING, Any, cast

from edge_agent.errors import EdgeAgentError
from edge_agent.protocol.signature import Datatype
from edge_agent.supervisor.listeners import short_path

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT_S = 60.0
Inputs = list[dict[str, Any]]


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


def inputs_from_npz(path: Path) -> Inputs:
    """The arrays of an `.npz` file (no pickles), as protocol tensors.

    Raises:
        InferError: no such file, or not usable arrays.
    """
    import numpy as np  # noqa: PLC0415  only here

    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, AttributeError, TypeError) as exc:
        raise InferError(f"{path} can't be read as an .npz of plain arrays") from exc
    try:
        return [
            {
                "name": name,
                "shape": list(array.shape),
                "datatype": Datatype.from_numpy(array.dtype.name).value,
                "data": array.reshape(-1).tolist(),
            }
            for name, array in arrays.items()
        ]
    except ValueError as exc:
        raise InferError(f"{path}: {exc}") from exc


def inputs_from_json(text: str) -> Inputs:
    """`{"x": [[1, 2]]}` as protocol tensors of FP32, or a whole protocol request.

    Raises:
        InferError: something else.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise InferError('--json is not JSON: write {"input name": [[1, 2, 3]]}') from exc
    if not isinstance(document, dict) or not document:
        raise InferError('--json is no object: write {"input name": [[1, 2, 3]]}')
    if isinstance(document.get("inputs"), list):
        return cast("Inputs", document["inputs"])
    return [
        {"name": name, "shape": _shape(values), "datatype": "FP32", "data": _flat(values)}
        for name, values in document.items()
    ]


def infer(path: Path, model: str, inputs: Inputs) -> dict[str, Any]:
    """Ask the model behind a socket.

    Raises:
        InferError: nobody answers, or the answer is an error.
    """
    connection = _UnixConnection(path)
    try:
        body = json.dumps({"inputs": inputs}).encode()
        headers = {"Content-Type": "application/json"}
        connection.request("POST", f"/v2/models/{model}/infer", body=body, headers=headers)
        response = connection.getresponse()
        answer = json.loads(response.read())
    except OSError as exc:
        raise InferError(f"no model {model} is served here: see edge-agent status, or give the --data-dir") from exc
    except (http.client.HTTPException, ValueError) as exc:
        raise InferError(f"model {model} gave an answer that can't be read") from exc
    finally:
        connection.close()
    if response.status != http.client.OK:
        words = answer.get("error") if isinstance(answer, dict) else None
        raise InferError(f"model {model} refused: {words or response.status}")
    return cast("dict[str, Any]", answer)


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
