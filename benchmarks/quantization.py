"""Static int8 of EfficientNet-Lite0 on 2,000 crops of photos: calibrations and repairs, beside litert-quantizer.

    python -m benchmarks.quantization [--crops 2000] [--json FILE]

The 20 photos are foolbox's: crops of seven calibrate, of three select, and those of the other ten, 25 to 100 % of the
area, tell how often a file names the same class as the float network, and how far its answers are from the float ones
(signal-to-noise ratio). Latency is the median of one thread in turns with the float file's, on LiteRT with XNNPACK. The
seconds are those of conversion and quantization together, from the network in memory to the file.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

from benchmarks.compressing.turns import milliseconds
from benchmarks.peers.litert_quantizer_recipes import quantized
from compressors.contract import StepSpec, Task
from compressors.data.evaluation_rows import Split
from compressors.inputs import loading
from compressors.measuring.fidelity import snr_db
from compressors.metrics import METRICS
from compressors.recipes import step_of
from compressors.step import Context, Model, content_of
from examples.vision import photos, preprocess, write_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from compressors.inputs.program import FloatModel

CALIBRATING, SELECTING = range(7), range(7, 10)  # photos; the others test
CALIBRATION_CROPS, SELECTION_CROPS = 40, 80  # of each photo
SMALLEST_AREA = 0.25
ROUNDS = 7  # of latency
LEAST_AGREEMENT, MOST_LATENCY, MOST_SECONDS = 0.965, 0.55, 60.0
DEFAULT = "per channel, best calibration"
EXPORT = StepSpec(step="export-litert")
PER_TENSOR = {"calibration": "min-max", "granularity": "tensor"}


def repairs(**parameters: Any) -> tuple[StepSpec, ...]:  # noqa: ANN401  a step's parameters are of its own types
    """The three repairs, simulated as the network will be quantized."""
    measured = (StepSpec(step=name, parameters=parameters) for name in ("equalize-layers", "correct-biases"))
    return (StepSpec(step="fold-batch-norm"), *measured)


WAYS = {
    "per channel, min-max": (EXPORT, StepSpec(step="static-int8", parameters={"calibration": "min-max"})),
    DEFAULT: (EXPORT, StepSpec(step="static-int8")),
    "per channel, repaired": (*repairs(), EXPORT, StepSpec(step="static-int8")),
    "per tensor, min-max": (EXPORT, StepSpec(step="static-int8", parameters=PER_TENSOR)),
    "per tensor, repaired": (*repairs(per_channel=False), EXPORT, StepSpec(step="static-int8", parameters=PER_TENSOR)),
}
PEER = "litert-quantizer static_wi8_ai8"


@dataclass
class Row:
    """One way, and what came of it."""

    way: str
    seconds: float
    file_bytes: int
    agreement: float = math.nan
    snr_db: float = math.nan
    top1: float = math.nan
    latency: float = math.nan  # of float's


def crops(numbers: Sequence[int], each: int, seed: int) -> Split:
    """Square crops of 25 to 100 % of the area of some photos, mirrored half of the time."""
    rng, labelled = np.random.default_rng(seed), photos()
    images, targets, groups = [], [], []
    for number in numbers:
        path, label = labelled[number]
        with Image.open(path) as opened:
            photo = opened.convert("RGB")
        for _ in range(each):
            side = int(min(photo.size) * math.sqrt(rng.uniform(SMALLEST_AREA, 1.0)))
            left, top = (int(rng.integers(length - side + 1)) for length in photo.size)
            crop = photo.crop((left, top, left + side, top + side))
            images.append(preprocess(crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.integers(2) else crop))
            targets.append(label)
            groups.append(number)
    places = np.arange(len(targets))
    return Split({"image": np.stack(images)}, np.array(targets), places, np.array(groups), places)


def made(way: str, network: FloatModel, context: Context) -> tuple[Row, bytes]:
    """The file of one way."""
    began_s, model = time.perf_counter(), Model(network)
    for spec in WAYS[way]:
        step = step_of(spec)
        outcome = step.apply(model, context, step.parameters.model_validate(spec.parameters))
        print(f"{way}: {spec.step}: {outcome.summary}", file=sys.stderr, flush=True)
        model = outcome.model
    content = content_of(model)
    return Row(way, time.perf_counter() - began_s, len(content)), content


def made_by_peer(float_file: bytes, calibration: Split, folder: Path) -> tuple[Row, bytes]:
    """The file of litert-quantizer's ready-made recipe, calibrated as its README recommends; without conversion."""
    path = folder / "float.tflite"
    path.write_bytes(float_file)
    began_s = time.perf_counter()
    content = quantized(path, calibration.inputs, PEER.split()[1])
    return Row(PEER, time.perf_counter() - began_s, len(content)), content


def answers(content: bytes, images: NDArray[Any]) -> NDArray[Any]:
    """What a file says to each image; integers at its ends are those of its scales."""
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    into, out = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    found = []
    for image in images:
        interpreter.set_tensor(into["index"], as_stored(image[np.newaxis], into))
        interpreter.invoke()
        found.append(as_said(interpreter.get_tensor(out["index"])[0], out))
    return np.stack(found)


def as_stored(values: NDArray[Any], details: dict[str, Any]) -> NDArray[Any]:
    """Numbers as a tensor of a file holds them."""
    scale, zero = details["quantization"]
    if details["dtype"] is np.float32:
        return values
    limits = np.iinfo(details["dtype"])
    return np.asarray(np.clip(np.round(values / scale) + zero, limits.min, limits.max), details["dtype"])


def as_said(values: NDArray[Any], details: dict[str, Any]) -> NDArray[Any]:
    """What a tensor of a file means, in a copy of its own."""
    scale, zero = details["quantization"]
    if details["dtype"] is np.float32:
        return values.astype(np.float32)
    return np.asarray((values.astype(np.float32) - zero) * scale)


def judge(row: Row, outputs: NDArray[Any], expected: NDArray[Any], test: Split) -> None:
    """Hold the answers of a file against the float network's."""
    row.agreement = float(np.mean(outputs.argmax(axis=1) == expected.argmax(axis=1)))
    row.snr_db = snr_db(expected, outputs)
    row.top1 = float(np.mean(outputs.argmax(axis=1) == test.target))


def goals_of(rows: dict[str, Row]) -> list[tuple[bool, str]]:
    """What was asked for."""
    default, plain, repaired = (rows[f"per channel, {way}"] for way in ("best calibration", "min-max", "repaired"))
    gain = repaired.snr_db - plain.snr_db
    return [
        (default.agreement >= LEAST_AGREEMENT, f"agreement {default.agreement:.4f} (at least {LEAST_AGREEMENT})"),
        (default.latency <= MOST_LATENCY, f"latency {default.latency:.3f} of float's (at most {MOST_LATENCY})"),
        (default.seconds <= MOST_SECONDS, f"made in {default.seconds:.1f} s (at most {MOST_SECONDS:.0f})"),
        (
            gain > 0,
            f"repairs gain {gain:.1f} dB over min-max, agreement {plain.agreement:.4f} -> {repaired.agreement:.4f}",
        ),
    ]


def show(rows: dict[str, Row]) -> None:
    """Print the table."""
    print(f"{'':34}{'agreement':>12}{'SNR dB':>10}{'top-1':>10}{'x float':>10}{'MB':>8}{'s':>8}")
    for way, row in rows.items():
        cells = f"{row.agreement:12.4f}{row.snr_db:10.1f}{row.top1:10.4f}{row.latency:10.3f}"
        print(f"{way:34}{cells}{row.file_bytes / 1e6:8.2f}{row.seconds:8.1f}")


def main() -> int:
    """Quantize in every way, measure, print; 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crops", type=int, default=2_000, help="that the files are judged on")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    calibration, selection = crops(CALIBRATING, CALIBRATION_CROPS, 1), crops(SELECTING, SELECTION_CROPS, 2)
    testing = range(SELECTING.stop, len(photos()))
    test = crops(testing, math.ceil(options.crops / len(testing)), 3)
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder) / "vision.pt2")
        network = loading.load(Path(folder) / "vision.pt2")
        context = Context(calibration, selection, Task.CLASSIFICATION, METRICS["top1"], teacher=network)
        float_step = step_of(EXPORT)
        float_file = content_of(float_step.apply(Model(network), context, float_step.parameters()).model)
        built = [*(made(way, network, context) for way in WAYS), made_by_peer(float_file, calibration, Path(folder))]
    expected = network.run(test.inputs)[network.signature.outputs[0].name]
    for row, content in built:
        judge(row, answers(content, test.inputs["image"]), expected, test)
    latency_ms = milliseconds({"float": float_file, **{row.way: content for row, content in built}}, ROUNDS)
    rows = {row.way: row for row, _ in built}
    for way, row in rows.items():
        row.latency = latency_ms[way] / latency_ms["float"]
    top1 = float(np.mean(expected.argmax(axis=1) == test.target))
    print(f"{len(test.target)} crops; float: top-1 {top1:.4f}, {latency_ms['float']:.2f} ms, {len(float_file)} bytes")
    show(rows)
    goals = goals_of(rows)
    for is_met, told in goals:
        print(f"{'met   ' if is_met else 'MISSED'} {told}")
    if options.json is not None:
        machine = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
        versions = {name: version(name) for name in ("ai-edge-litert", "litert-quantizer", "torch")}
        document = {"machine": machine, "versions": versions, "rows": [asdict(row) for row in rows.values()]}
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0 if all(is_met for is_met, _ in goals) else 1


if __name__ == "__main__":
    sys.exit(main())
