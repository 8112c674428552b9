"""Clients as a shop would have them: keep-alive, steady, and without a retry, so that a lost request is seen."""

from __future__ import annotations

import http.client
import json
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

TIMEOUT_S = 30.0


@dataclass
class Tally:
    """What one client saw."""

    latencies_ms: list[float] = field(default_factory=list)
    by_version: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


class DeviceClient:
    """The Open Inference Protocol over one keep-alive connection; float32 tensors travel as binary."""

    def __init__(self, host: str, port: int, model: str) -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        self._path = f"/v2/models/{model}/infer"

    def infer(self, name: str, batch: NDArray[np.float32]) -> tuple[NDArray[np.float32], str]:
        """Send one batch; the first output, and the version that answered."""
        raw = batch.astype("<f4").tobytes()
        tensor = {
            "name": name,
            "shape": list(batch.shape),
            "datatype": "FP32",
            "parameters": {"binary_data_size": len(raw)},
        }
        header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        headers = {"Inference-Header-Content-Length": str(len(header)), "Content-Type": "application/octet-stream"}
        self._connection.request("POST", self._path, header + raw, headers)
        response = self._connection.getresponse()
        body = response.read()
        if response.status != http.client.OK:
            raise OSError(f"HTTP {response.status}: {body[:200].decode(errors='replace')}")
        length = int(response.headers["Inference-Header-Content-Length"])
        document: dict[str, Any] = json.loads(body[:length])
        output = document["outputs"][0]
        values = np.frombuffer(body[length:], "<f4", count=int(np.prod(output["shape"]))).reshape(output["shape"])
        return values, document["model_version"]

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class SteadyLoad(threading.Thread):
    """Sends one row after the other at a fixed rate until it is told to stop."""

    def __init__(self, client: DeviceClient, name: str, rows: NDArray[np.float32], *, per_second: float) -> None:
        super().__init__(daemon=True)
        self.tally = Tally()
        self._client, self._name, self._rows, self._interval_s = client, name, rows, 1.0 / per_second
        self._stopping = threading.Event()

    def run(self) -> None:
        """The loop of the thread."""
        row = 0
        while not self._stopping.is_set():
            began = time.perf_counter()
            try:
                _, version = self._client.infer(self._name, self._rows[row : row + 1])
            except (OSError, http.client.HTTPException) as exc:
                self.tally.failures.append(f"{type(exc).__name__}: {exc}")
            else:
                self.tally.latencies_ms.append((time.perf_counter() - began) * 1e3)
                self.tally.by_version[version] = self.tally.by_version.get(version, 0) + 1
            row = (row + 1) % len(self._rows)
            self._stopping.wait(max(0.0, self._interval_s - (time.perf_counter() - began)))
        self._client.close()

    def stop(self) -> Tally:
        """End the loop and give what it saw."""
        self._stopping.set()
        self.join(TIMEOUT_S)
        return self.tally
