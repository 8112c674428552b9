"""Latency of LiteRT files in turns: what disturbs the machine disturbs all alike."""

from __future__ import annotations

import time

import numpy as np
from ai_edge_litert.interpreter import Interpreter

RUNS = 40  # of each file in a turn


def milliseconds(files: dict[str, bytes], rounds: int) -> dict[str, float]:
    """The median over rounds of the median latency of one picture, one thread; files take turns within a round."""
    interpreters = {name: Interpreter(model_content=content, num_threads=1) for name, content in files.items()}
    for interpreter in interpreters.values():
        interpreter.allocate_tensors()
    taken: dict[str, list[float]] = {name: [] for name in files}
    for _ in range(rounds):
        for name, interpreter in interpreters.items():
            runs = []
            for _ in range(RUNS):
                began_s = time.perf_counter()
                interpreter.invoke()
                runs.append((time.perf_counter() - began_s) * 1e3)
            taken[name].append(float(np.median(runs)))
    return {name: float(np.median(times)) for name, times in taken.items()}
