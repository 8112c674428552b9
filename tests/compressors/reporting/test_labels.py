from __future__ import annotations

import pytest

from compressors.reporting.evidence import Label
from compressors.reporting.labels import labelled


@pytest.mark.parametrize(
    ("latency", "raw", "wire", "loss", "label", "said"),
    [
        (
            0.48,
            0.27,
            0.25,
            0.004,
            Label.FASTER,
            "0.48 of the float model's latency on the same runtime, on the host (Xeon)",
        ),
        (3.2, 0.27, 0.25, 0.0, Label.SMALLER, "and 3.20 times its latency on the host (Xeon)"),
        (1.0, 1.0, 0.12, 0.0, Label.DOWNLOAD_ONLY, "0.12 of the float model's download"),
        (0.97, 0.95, 0.99, 0.0, Label.NOT_WORTH_IT, "neither faster"),
        (0.48, 0.27, 0.25, 0.015, Label.FASTER, "it loses 1.5 points"),
        (0.48, 0.27, 0.25, 0.157, Label.NOT_WORTH_IT, "it loses 15.7 points"),
        (None, 0.27, 0.25, 0.0, Label.SMALLER, "0.27 of the float model's file"),
    ],
)
def test_label_names_the_gain_and_the_price(
    latency: float | None, raw: float, wire: float, loss: float, label: Label, said: str
) -> None:
    verdict = labelled(latency=latency, cpu_model="Xeon", raw_bytes=raw, wire_bytes=wire, loss=loss)
    assert verdict.label is label
    assert said in verdict.sentence
    assert verdict.loses_points is (loss > 0.01)


@pytest.mark.parametrize("latency", [0.8, 1.0, 1.3, None], ids=str)
def test_label_of_the_float_model_is_its_own_whatever_the_noise(latency: float | None) -> None:
    verdict = labelled(latency=latency, cpu_model="Xeon", raw_bytes=1.0, wire_bytes=1.0, loss=0.0, is_float=True)
    assert (verdict.label, verdict.loses_points) == (Label.THE_FLOAT_MODEL, False)
    assert verdict.sentence == "the file that every other variant is held against"


def test_label_of_a_float_model_that_a_runtime_gets_wrong_says_what_it_loses() -> None:
    verdict = labelled(latency=1.0, cpu_model="Xeon", raw_bytes=1.0, wire_bytes=1.0, loss=0.2, is_float=True)
    assert (verdict.label, verdict.loses_points) == (Label.NOT_WORTH_IT, True)
    assert verdict.sentence.endswith("it loses 20.0 points")


def test_label_of_a_host_that_nobody_named_still_says_that_it_is_the_host() -> None:
    verdict = labelled(latency=0.5, cpu_model=None, raw_bytes=1.0, wire_bytes=1.0, loss=0.0)
    assert verdict.sentence == "0.50 of the float model's latency on the same runtime, on the host"
