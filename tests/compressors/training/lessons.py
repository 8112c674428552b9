"""Small problems that are learnt in a second: what tests of training share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from compressors.contract import Task
from compressors.data.evaluation_rows import Split
from compressors.metrics import METRICS

if TYPE_CHECKING:
    from numpy.typing import NDArray

METRIC = {Task.CLASSIFICATION: METRICS["top1"], Task.REGRESSION: METRICS["r2"], Task.RANKING: METRICS["hr@1"]}
FEATURES, QUERY = 6, 10


def split_of(
    target: NDArray[np.generic], features: NDArray[np.float32], query: NDArray[np.int64] | None = None
) -> Split:
    places = np.arange(len(features))
    return Split({"features": features}, target, places, query, places)


def problem(task: Task, rows: int = 640, *, seed: int = 0) -> Split:
    """Rows whose answer is a plain function of two features."""
    features = np.random.default_rng(seed).normal(size=(rows, FEATURES)).astype(np.float32)
    value = features[:, 0] - 2.0 * features[:, 1]
    if task is Task.CLASSIFICATION:
        return split_of(np.digitize(value, [-1.0, 1.0]).astype(np.int64), features)
    if task is Task.REGRESSION:
        return split_of((100.0 + 20.0 * value).astype(np.float64)[:, None], features)
    query = np.arange(rows) // QUERY
    best = value.reshape(-1, QUERY).max(axis=1).repeat(QUERY)
    return split_of((value == best).astype(np.float64), features, query)


def network(task: Task, *, seed: int = 0) -> nn.Module:
    """Untrained."""
    torch.manual_seed(seed)
    width = 3 if task is Task.CLASSIFICATION else 1
    return nn.Sequential(nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, width)).eval()
