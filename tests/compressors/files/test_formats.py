"""A build for runtimes beside LiteRT: each format gets its own recipes, targets, figures and manifests."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from compressors.files.formats import FORMATS, Form, Target, targets_of
from compressors.recipes import RECIPES, default_recipes, form_of
from edge_agent.protocol.manifest import VariantManifest
from edge_agent.protocol.profile import Delegate, DeviceProfile, RuntimeName
from tests.compressors.conftest import Built, Shared, Upload, board, build_once, inputs_of

if TYPE_CHECKING:
    from collections.abc import Mapping

ENDING_OF = {"onnx": "onnx", "executorch": "pte"}


@pytest.fixture(scope="session")
def shapes_build(shared: Shared, shapes: Upload) -> Built:
    """The convnet for a board with two other runtimes."""
    request = {
        "inputs": inputs_of(shapes, task="classification", metric="top1"),
        "profiles": [board("other", runtimes=("onnx", "executorch"))],
        "pythons": {"onnx": sys.executable, "executorch": sys.executable},
    }
    return build_once(shared, "other-build", request)


def test_every_format_has_recipes_that_end_in_it() -> None:
    for form, kind in FORMATS.items():
        assert [form_of(RECIPES[name]) for name in kind.recipes] == [form] * len(kind.recipes)


def test_targets_of_a_format_are_those_of_runtimes_that_load_it() -> None:
    profiles = [
        DeviceProfile.model_validate(board("a", runtimes=("tflite", "onnx"))),
        DeviceProfile.model_validate(board("b", runtimes=("litert",)) | {"threads": 2}),
    ]
    assert targets_of(Form.ONNX, profiles) == [Target(RuntimeName.ONNX, Delegate.NONE, 1)]
    assert targets_of(Form.EXECUTORCH, profiles) == []
    assert targets_of(Form.LITERT, profiles) == [
        Target(RuntimeName.LITERT, Delegate.NONE, 2),
        Target(RuntimeName.LITERT, Delegate.XNNPACK, 2),
        Target(RuntimeName.TFLITE, Delegate.NONE, 1),
        Target(RuntimeName.TFLITE, Delegate.XNNPACK, 1),
    ]
    assert not any(name.startswith("executorch") for name in default_recipes(profiles))


@pytest.mark.parametrize(
    ("configuration", "recipes"),
    [
        ("ethos-u65-256", ["static-int8-ethos-u65-256"]),
        ("ethos-u65-512", ["static-int8-ethos-u65-512"]),
        ("ethos-u65-9", []),
        (None, []),
    ],
)
def test_default_recipes_of_a_profile_with_an_npu_are_for_its_very_configuration(
    configuration: str | None, recipes: list[str]
) -> None:
    npu = {"npu": {"kind": "ethos-u65", "configuration": configuration}}
    profile = DeviceProfile.model_validate(board("npu") | npu)
    assert [name for name in default_recipes([profile]) if "ethos" in name] == recipes


@pytest.mark.slow
def test_build_measures_every_recipe_on_the_runtime_of_its_format(shapes_build: Built) -> None:
    variants = shapes_build.variants("other")
    assert sorted(variants) == [
        ("executorch-float32", "executorch", "xnnpack"),
        ("executorch-static-int8", "executorch", "xnnpack"),
        ("onnx-dynamic-int8", "onnx", "none"),
        ("onnx-float32", "onnx", "none"),
        ("onnx-static-int8", "onnx", "none"),
    ]
    for (recipe, _, _), variant in variants.items():
        assert variant["verdict"] == "fits", variant["reason"]
        assert variant["macs"] == 8 * 9 * 144 + 8 * 9 * 144 + 8 * 16 * 144 + 144 * 3
        assert (variant["quantized_operators"] > 0) is ("int8" in recipe)
        assert variant["agreement"]["value"] >= (0.97 if "int8" in recipe else 1.0)


@pytest.mark.slow
def test_manifest_names_the_format_of_its_file(shapes_build: Built) -> None:
    for variant in shapes_build.variants("other").values():
        manifest = VariantManifest.model_validate_json(shapes_build.written(variant["manifest_sha256"]))
        assert manifest.model_file.format == ENDING_OF[variant["runtime"]]
        assert [binding.datatype for binding in (*manifest.inputs, *manifest.outputs)] == ["FP32", "FP32"]


@pytest.mark.slow
def test_golden_tolerance_of_what_computes_in_integers_allows_for_one_step(shapes_build: Built) -> None:
    def tolerance(variant: Mapping[str, str]) -> float:
        manifest = VariantManifest.model_validate_json(shapes_build.written(variant["manifest_sha256"]))
        assert manifest.golden is not None
        return manifest.golden.atol

    variants = shapes_build.variants("other")
    exact = tolerance(variants["onnx-float32", "onnx", "none"])
    rounded = tolerance(variants["onnx-static-int8", "onnx", "none"])
    assert rounded > 10 * exact
