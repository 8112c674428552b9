from __future__ import annotations

import numpy as np
import pytest

from compressors.bootstrap import evaluate
from compressors.measuring.fidelity import loss_sources, noise_db
from compressors.metrics import METRICS


@pytest.mark.parametrize(
    ("noise", "expected"), [(0.0, None), (1e-6, None), (1e-2, 400)], ids=["same", "export", "int8"]
)
def test_model_that_answers_as_another_needs_no_rows_to_tell(noise: float, expected: int | None) -> None:
    rng = np.random.default_rng(2)
    target = rng.normal(100.0, 1.0, size=400)  # all of one height, which is no signal
    model, other = (
        evaluate(METRICS["mae"], outputs, target, group=np.arange(400), query=None)
        for outputs in (target, target + noise * rng.normal(size=400))
    )
    assert loss_sources(model, other) == expected


@pytest.mark.parametrize(("sources", "expected"), [(29, -20.0), (30, None)])
def test_noise_counts_where_too_few_sources_tell_what_is_lost(sources: int, expected: float | None) -> None:
    rng = np.random.default_rng(3)
    target = rng.normal(size=6000)
    group = np.arange(6000) % sources
    model, noisy, same = (
        evaluate(METRICS["mae"], outputs, target, group=group, query=None)
        for outputs in (target, target + 0.1 * rng.normal(size=6000), target + 1e-9)
    )
    found = noise_db(model, noisy)
    assert found == (None if expected is None else pytest.approx(expected, abs=0.5))
    assert noise_db(model, same) == (None if expected is None else -80.0)
