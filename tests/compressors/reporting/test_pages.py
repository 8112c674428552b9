"""The pages of a report say what was found, and stay pages whatever a layer or a class is called."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from compressors.contract import Figure, Origin, StepRecord, Verdict
from compressors.reporting.evidence import (
    Candidate,
    Compared,
    ComparedFigure,
    Evidence,
    Flips,
    Label,
    Sensitivity,
    ShiftFigure,
    Size,
    SliceFigure,
    Verdicted,
)
from compressors.reporting.pages import write_report

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = "class <script>alert(1)</script> | $x_{ \\ ok"


def candidates() -> list[Candidate]:
    figures = (("float32", 5.1, 16_000_000, 0.75), ("static-int8", 2.4, 4_400_000, 0.73))
    return [
        Candidate(
            recipe=recipe,
            target="litert/xnnpack",
            verdict=Verdict.FITS,
            latency_p50_ms=ms,
            download_bytes=size,
            metric=metric,
            on_front=True,
            reported=recipe == "static-int8",
        )
        for recipe, ms, size, metric in figures
    ]


@pytest.fixture
def evidence() -> Evidence:
    return Evidence(
        model="net",
        version="2",
        profile="camera",
        variant_id="static-int8-litert-xnnpack-0123456789ab",
        recipe="static-int8",
        chosen=True,
        limits_verdict=Verdict.UNPROVEN,
        limits_reason="what it takes on <its> CPU | is not known",
        target="litert/xnnpack",
        task="classification",
        rows=1500,
        float_size=Size(raw_bytes=18_600_000, wire_bytes=16_000_000, macs=385_000_000, latency_p50_ms=5.1),
        size=Size(raw_bytes=5_300_000, wire_bytes=4_400_000, macs=385_000_000, latency_p50_ms=2.4),
        decision=ComparedFigure(
            name="top1",
            before=Figure(value=0.75, low=0.73, high=0.77),
            after=Figure(value=0.73, low=0.71, high=0.75),
            loss=Figure(value=0.02, low=0.013, high=0.027),
        ),
        ranking=ComparedFigure(
            name="mrr", before=Figure(value=0.83), after=Figure(value=0.82), loss=Figure(value=0.01)
        ),
        calibration_error=Compared(name="expected calibration error", before=0.02, after=0.05, loss=0.03),
        agreement=0.968,
        flips=Flips(rows=1500, changed=48, to_right=9, to_wrong=24),
        slices=(SliceFigure(name=HOSTILE, rows=80, metric="accuracy", before=0.8, after=0.6, loss=0.2),),
        shifts=(ShiftFigure(name="blur of 2 pixels", before=0.6, after=0.55, loss=0.05, agreement=0.9),),
        attribution_correlation=0.91,
        sensitivity=(Sensitivity(layer=HOSTILE, weights_db=21.0, activations_db=30.0, both_db=20.0),),
        candidates=tuple(candidates()),
        steps=(StepRecord(step="static-int8", seconds=12.5, summary="61 of 62 operators hold int8 weights"),),
        verdict=Verdicted(label=Label.FASTER, sentence="0.47 of the float model's latency", loses_points=True),
    )


def test_report_is_written_for_people_and_for_programs(tmp_path: Path, evidence: Evidence) -> None:
    names = write_report(tmp_path / "report", evidence)
    assert names == sorted(path.name for path in (tmp_path / "report").iterdir())
    pictures = {"pareto.svg", "size.svg", "slices.svg", "shifts.svg", "sensitivity.svg"}
    assert set(names) == {"report.html", "report.md", "report.json"} | pictures
    assert Evidence.model_validate(json.loads((tmp_path / "report/report.json").read_text())) == evidence
    for page in ("report.html", "report.md"):
        text = " ".join((tmp_path / "report" / page).read_text().split())
        for said in (
            "faster",
            "camera gets it.",
            "more than one point of top1, and camera gets it",
            "0.75 (0.73 to 0.77)",
            "4,400,000",
            "mrr",
            "0.968",
            "blur of 2 pixels",
        ):
            assert said in text
    for name in pictures:
        ET.fromstring((tmp_path / "report" / name).read_text())


@pytest.mark.parametrize(
    ("latency", "told"),
    [
        pytest.param(
            Figure(value=9.0, low=6.0, high=13.5, origin=Origin.PREDICTED),
            [
                "as judged for camera (predicted from published figures)",
                "9 (6 to 13.5)",
                "No camera had told of this file",
            ],
            id="published",
        ),
        pytest.param(
            Figure(value=9.0, low=7.0, high=12.0, origin=Origin.PREDICTED, device_variants=7),
            ["(predicted from 7 variants that devices measured)", "9 (7 to 12)", "No camera had told of this file"],
            id="devices",
        ),
        pytest.param(Figure(value=9.0, origin=Origin.DEVICE), ["as judged for camera (device)"], id="measured"),
    ],
)
def test_page_says_what_the_judged_latency_stands_on(
    tmp_path: Path, evidence: Evidence, latency: Figure, told: list[str]
) -> None:
    write_report(tmp_path, evidence.model_copy(update={"latency_p95_ms": latency}))
    for page in ("report.html", "report.md"):
        text = " ".join((tmp_path / page).read_text().split())
        for said in told:
            assert said in text
        assert ("is predicted" in text) == (latency.origin is Origin.PREDICTED)


def test_headline_says_how_the_limits_are_met_and_why(tmp_path: Path, evidence: Evidence) -> None:
    write_report(tmp_path, evidence)
    told = "Held against its limits: unproven: what it takes on &lt;its&gt; CPU"
    assert f"{told} | is not known.</p>" in (tmp_path / "report.html").read_text()
    assert f"{told} \\| is not known.\n" in (tmp_path / "report.md").read_text()
    write_report(tmp_path, evidence.model_copy(update={"limits_verdict": Verdict.FITS, "limits_reason": ""}))
    for page in ("report.html", "report.md"):
        assert "Held against its limits: fits." in (tmp_path / page).read_text()


def test_page_loads_nothing_and_runs_nothing(tmp_path: Path, evidence: Evidence) -> None:
    write_report(tmp_path, evidence)
    text = (tmp_path / "report.html").read_text()
    assert "default-src 'none'" in text
    for loaded in ("<script", "<link", "<img", "src=", "@import", "url(http"):
        assert loaded not in text


def test_hostile_name_is_text_on_every_page(tmp_path: Path, evidence: Evidence) -> None:
    write_report(tmp_path, evidence)
    for name in ("report.html", "report.md", "slices.svg", "sensitivity.svg"):
        assert "<script>" not in (tmp_path / name).read_text()
    row = next(line for line in (tmp_path / "report.md").read_text().splitlines() if "alert(1)" in line)
    assert row.count("|") - row.count("\\|") == 7  # six cells


def test_layers_tell_their_curvature_where_it_was_computed(tmp_path: Path, evidence: Evidence) -> None:
    known = Sensitivity(
        layer="head", weights_db=22.0, activations_db=31.0, both_db=21.5, top_eigenvalue=3.25, trace=17.125
    )
    write_report(tmp_path / "without", evidence)
    assert "eigenvalue" not in (tmp_path / "without/report.md").read_text()
    write_report(tmp_path / "with", evidence.model_copy(update={"sensitivity": (*evidence.sensitivity, known)}))
    page = (tmp_path / "with/report.md").read_text()
    assert "| head | 22 | 31 | 21.5 | 3.25 | 17.12 |" in page
    assert "eigenvalue" in (tmp_path / "with/report.html").read_text()


def test_report_is_the_same_each_time(tmp_path: Path, evidence: Evidence) -> None:
    for name in ("a", "b"):
        write_report(tmp_path / name, evidence)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_report_of_numbers_leaves_out_what_there_is_not(tmp_path: Path, evidence: Evidence) -> None:
    absent = ("slices", "shifts", "sensitivity", "candidates")
    bare = evidence.model_copy(update={"ranking": None, "calibration_error": None, **dict.fromkeys(absent, ())})
    names = write_report(tmp_path, bare)
    assert "pareto.svg" not in names
    page = (tmp_path / "report.html").read_text()
    for left_out in ("Layers", "Parts of the data", "confidence", "What can be had"):
        assert left_out not in page
