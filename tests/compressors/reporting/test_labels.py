from __future__ import annotations

import pytest

from compressors.reporting.evidence import Label
from compressors.reporting.labels import labelled


@pytest.mark.parametrize(
    ("latency", "raw", "wire", "loss", "label", "said"),
    [
        (0.48, 0.27, 0.25, 0.004, Label.FASTER, "0.48 of the float model's latency"),
        (3.2, 0.27, 0.25, 0.0, Label.SMALLER, "and 3.20 times its latency"),
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
    verdict = labelled(latency=latency, raw_bytes=raw, wire_bytes=wire, loss=loss)
    assert verdict.label is label
    assert said in verdict.sentence
    assert verdict.loses_points is (loss > 0.01)
