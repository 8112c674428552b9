"""Vela really compiles: what runs on the processor, what falls back, and what a build makes of it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from compressors.contract import Task
from compressors.data import evaluation_rows
from compressors.errors import ConversionError, ExtraMissingError, NoEffectError, RecipeError
from compressors.files.litert import read_graphs
from compressors.inputs import program
from compressors.measuring.scoring import score
from compressors.npu.vela import ACCELERATORS, Accelerator, compile_file, last_words
from compressors.step import Context, Form, Model, content_of
from compressors.steps.compile_ethos_u import STEP as COMPILE
from compressors.steps.export_litert import STEP as EXPORT
from compressors.steps.quantize_static import INT8 as STATIC
from edge_agent.protocol.manifest import VariantManifest
from tests.compressors.conftest import Built, Shared, Upload, board, build_once, inputs_of
from tests.compressors.steps.applying import apply, context_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.compressors.conftest import Request

U65: Accelerator = "ethos-u65-256"


@pytest.fixture(scope="session")
def shapes_int8(uploads: Path) -> tuple[Model, Context]:
    network = program.load(uploads / "shapes.pt2")
    rows = evaluation_rows.load(uploads / "shapes.npz", network.signature, Task.CLASSIFICATION)
    context = context_of(rows, Task.CLASSIFICATION)
    return apply(STATIC, apply(EXPORT, Model(network), context).model, context).model, context


def mcu(name: str, *, configuration: str = U65, **limits: float) -> Request:
    """A board with an Ethos-U65."""
    npu = {"kind": "ethos-u65", "configuration": configuration}
    return board(name, runtimes=("litert",)) | {"npu": npu, "limits": limits}


@pytest.fixture(scope="session")
def npu_build(shared: Shared, shapes: Upload) -> Built:
    """The convnet for boards with one processor, with another one, and with a limit on latency."""
    request = {
        "inputs": inputs_of(shapes, task="classification", metric="top1"),
        "profiles": [mcu("u65"), mcu("hasty", latency_p95_ms=50.0), mcu("u65-512", configuration="ethos-u65-512")],
        "recipes": [f"static-int8-{U65}"],
        "pythons": {"litert": sys.executable},
    }
    return build_once(shared, "npu-build", request)


def test_convnet_runs_on_the_processor_altogether(shapes_int8: tuple[Model, Context]) -> None:
    outcome = apply(COMPILE, *shapes_int8, accelerator=U65)
    assert outcome.figures["operators_off_npu"] == 0
    assert outcome.figures["operators_on_npu"] >= 8
    assert outcome.figures["npu_cycles"] > 1000
    assert 0 < outcome.figures["sram_bytes"] < 1 << 20
    assert outcome.model.form is Form.ETHOS_U
    (graph,) = read_graphs(content_of(outcome.model))
    assert [name for name, _ in graph.operators] == ["CUSTOM"]  # one command stream
    assert all(" on the NPU, " in kind for kind in outcome.layers.values())


def test_compiled_file_keeps_the_tensors_that_apps_are_bound_to(shapes_int8: tuple[Model, Context]) -> None:
    def ends(content: bytes) -> list[tuple[int, list[int], list[float], list[int]]]:
        (graph,) = read_graphs(content)
        found = []
        for index in graph.inputs:
            tensor = graph.tensors[index]
            scale = tensor.quantization
            found.append((tensor.type, list(tensor.shape), list(scale.scale), list(scale.zeroPoint)))
        return found

    source = content_of(shapes_int8[0])
    assert ends(compile_file(source, U65).content) == ends(source)


def test_smaller_processor_needs_more_cycles(shapes_int8: tuple[Model, Context]) -> None:
    source = content_of(shapes_int8[0])
    assert compile_file(source, "ethos-u55-32").cycles > compile_file(source, "ethos-u55-256").cycles


@pytest.mark.parametrize("accelerator", ACCELERATORS)
def test_every_accelerator_has_memories_that_vela_knows(shapes_int8: tuple[Model, Context], accelerator: str) -> None:
    outcome = apply(COMPILE, *shapes_int8, accelerator=accelerator)
    assert outcome.figures["operators_on_npu"] > 0


def test_float_file_has_nothing_for_the_processor(uploads: Path) -> None:
    network = program.load(uploads / "shapes.pt2")
    context = context_of(
        evaluation_rows.load(uploads / "shapes.npz", network.signature, Task.CLASSIFICATION), Task.CLASSIFICATION
    )
    exported = apply(EXPORT, Model(network), context).model
    with pytest.raises(NoEffectError, match="make it fully integer first"):
        apply(COMPILE, exported, context, accelerator=U65)


def test_file_that_is_no_model_is_refused_in_velas_words() -> None:
    with pytest.raises(ConversionError, match="Vela can't compile this file: "):
        compile_file(b"garbage" * 100, U65)


def test_traceback_of_vela_is_not_told_but_its_error() -> None:
    said = """Traceback (most recent call last):
  File "/opt/ethosu/vela/vela.py", line 137, in process_regor
    compiled_model = regor.compile(accelerator, network)
                     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
RuntimeError: Non-passthrough operation (NotEqual) could not run on NPU
"""
    assert last_words(said) == "Non-passthrough operation (NotEqual) could not run on NPU"
    assert last_words("\n") == ""


def test_without_the_extra_says_what_to_install(
    shapes_int8: tuple[Model, Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ethosu.vela", None)
    with pytest.raises(ExtraMissingError, match=r"pip install 'shoal\[ethos-u\]'"):
        apply(COMPILE, *shapes_int8, accelerator=U65)


def test_score_of_a_compiled_file_is_refused_because_it_does_not_run_here(shapes_int8: tuple[Model, Context]) -> None:
    compiled = apply(COMPILE, *shapes_int8, accelerator=U65).model
    context = shapes_int8[1]
    with pytest.raises(RecipeError, match="put max_drop on a step before"):
        score(compiled, context.selection, context.metric)


def test_build_for_the_processor_gives_a_variant_whose_latency_nobody_knows_yet(npu_build: Built) -> None:
    variant = npu_build.variants("u65")[f"static-int8-{U65}", "litert", "ethos-u"]
    assert (variant["verdict"], variant["chosen"]) == ("unproven", True)
    assert "no device has run it on its NPU: the first device's self-test decides" in variant["reason"]
    assert variant["latency_p50_ms"] is variant["latency_p95_ms"] is variant["peak_rss_bytes"] is None
    assert variant["metric"]["value"] > 0.7
    assert variant["macs"] == 8 * 9 * 144 + 8 * 9 * 144 + 8 * 16 * 144 + 144 * 3
    assert variant["steps"][-1]["figures"]["operators_off_npu"] == 0
    manifest = VariantManifest.model_validate_json(npu_build.written(variant["manifest_sha256"]))
    assert manifest.delegate == "ethos-u"
    assert [binding.datatype for binding in manifest.inputs] == ["INT8"]


def test_build_with_a_limit_on_latency_is_unproven_until_a_device_has_run_it(npu_build: Built) -> None:
    variant = npu_build.variants("hasty")[f"static-int8-{U65}", "litert", "ethos-u"]
    assert variant["verdict"] == "unproven"


def test_build_for_another_configuration_is_no_candidate(npu_build: Built) -> None:
    assert npu_build.variants("u65-512") == {}
    assert "none of the recipes makes a file that they load" in npu_build.choice("u65-512")["refusal"]["sentence"]
