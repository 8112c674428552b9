"""A client as an application has it: one keep-alive connection, steady, no retry; it keeps what it saw."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tests.processes import RunningAgent

TIMEOUT_S = 20.0


class SteadyLoad(threading.Thread):
    """One row per request, about 100 requests a second, until it is told to stop; use it with `with`."""

    def __init__(
        self, agent: RunningAgent, model: str, rows: NDArray[np.float32], *, per_second: float = 100.0
    ) -> None:
        super().__init__(daemon=True)
        self.answered: Counter[str] = Counter()
        """Answers by version."""
        self.failures: list[str] = []
        self._connection = http.client.HTTPConnection(agent.host, agent.port, timeout=TIMEOUT_S)
        self._path, self._rows, self._interval_s = f"/v2/models/{model}/infer", rows, 1.0 / per_second
        self._stopping = threading.Event()

    def run(self) -> None:
        sent = 0
        while not self._stopping.is_set():
            row = self._rows[sent % len(self._rows)]
            tensor = {"name": "features", "shape": [1, row.size], "datatype": "FP32", "data": row.tolist()}
            sent += 1
            try:
                self._connection.request("POST", self._path, json.dumps({"inputs": [tensor]}))
                response = self._connection.getresponse()
                body = response.read()
            except (OSError, http.client.HTTPException) as exc:
                self._connection.close()
                self.failures.append(f"{type(exc).__name__}: {exc}")
                time.sleep(0.05)
            else:
                if response.status == http.client.OK:
                    self.answered[json.loads(body)["model_version"]] += 1
                else:
                    self.failures.append(f"HTTP {response.status}: {body[:200].decode(errors='replace')}")
            self._stopping.wait(self._interval_s)
        self._connection.close()

    @property
    def total(self) -> int:
        """Requests that were answered."""
        return self.answered.total()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self.join(TIMEOUT_S)
