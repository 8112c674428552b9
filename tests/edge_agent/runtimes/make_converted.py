"""Run as a script: one small convolutional network through the real converter and quantizer, with its own answers."""

from __future__ import annotations

import sys
from pathlib import Path

import litert_torch
import numpy as np
import torch
from litert_quantizer import Quantizer, recipe
from litert_quantizer.calibrator import Calibrator
from litert_quantizer.recipe_manager import RecipeManager
from litert_quantizer.utils import qsv_utils


def main(folder: Path) -> None:
    torch.manual_seed(3)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(128, 5),
    ).eval()
    pictures = torch.rand(64, 1, 8, 8)
    with torch.no_grad():
        np.savez(folder / "answers.npz", pictures=pictures.numpy(), scores=network(pictures).numpy())
    litert_torch.convert(network, (pictures[:1],)).export(str(folder / "float.tflite"))
    content = (folder / "float.tflite").read_bytes()
    dynamic = Quantizer(content, recipe.dynamic_wi8_afp32()).quantize()
    (folder / "dynamic.tflite").write_bytes(dynamic.quantized_model)
    static = Quantizer(content, recipe.static_wi8_ai8())
    samples = [{"args_0": picture[None]} for picture in pictures.numpy()]
    manager = RecipeManager()
    manager.load_quantization_recipe(static.get_quantization_recipe())
    # true extremes: the default keeps a moving average of them, and whatever lies outside is cut off
    calibrator = Calibrator(content, qsv_update_func=qsv_utils.min_max_update)
    calibrator.calibrate({"serving_default": samples}, manager)
    (folder / "int8.tflite").write_bytes(static.quantize(calibrator.get_model_qsvs()).quantized_model)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
