"""The network `shapes` in every format that may be pushed: `python models.py FOLDER UPLOADS` writes them all.

Keras runs on TensorFlow here, as it does for most users; the weights are those of the torch network, so that all files
must give the same answers.
"""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1")

import keras
import numpy as np
import tensorflow as tf
import torch

from compressors.inputs import program

FLAT_SHAPE = (16, 3, 3)  # of the last pictures, in torch's order


def keras_of(network: torch.nn.Module) -> Any:  # noqa: ANN401
    """The same network with pictures (height, width, channels)."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((12, 12, 1), name="picture"),
            layers.Conv2D(8, 3, padding="same", activation="relu"),
            layers.DepthwiseConv2D(3, padding="same"),
            layers.ReLU(6.0),
            layers.Conv2D(16, 1, activation="relu"),
            layers.MaxPooling2D(4),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    weights = {name: tensor.detach().numpy() for name, tensor in network.named_parameters()}
    dense = weights["layers.8.weight"].reshape(3, *FLAT_SHAPE).transpose(2, 3, 1, 0).reshape(144, 3)
    kernels = {
        0: weights["layers.0.weight"].transpose(2, 3, 1, 0),
        1: weights["layers.2.weight"].transpose(2, 3, 0, 1),
        3: weights["layers.4.weight"].transpose(2, 3, 1, 0),
        6: dense,
    }
    biases = {0: "layers.0.bias", 1: "layers.2.bias", 3: "layers.4.bias", 6: "layers.8.bias"}
    for at, kernel in kernels.items():
        model.layers[at].set_weights([kernel, weights[biases[at]]])
    return model


def write_onnx(network: torch.nn.Module, folder: Path) -> None:
    """By the exporter that needs no package of its own for its operators."""
    torch.onnx.export(
        network,
        (torch.zeros(2, 1, 12, 12),),
        str(folder / "shapes.onnx"),
        dynamo=False,
        input_names=["picture"],
        output_names=["scores"],
        dynamic_axes={"picture": {0: "batch"}},
    )


def write_keras(model: Any, folder: Path) -> None:  # noqa: ANN401
    """All that Keras and TensorFlow write."""
    model.save(folder / "shapes.keras")
    model.save(folder / "shapes.h5")
    model.save_weights(folder / "only.weights.h5")
    (folder / "shapes.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    model.export(folder / "saved", format="tf_saved_model", verbose=False)
    shutil.make_archive(str(folder / "shapes"), "zip", folder, "saved")
    shutil.make_archive(str(folder / "shapes"), "gztar", folder, "saved")


def read_a_file(x: Any) -> Any:  # noqa: ANN401
    """Look into a file of the machine that runs it."""
    size = tf.strings.length(tf.io.read_file("/etc/hostname"))
    return x + tf.cast(size, tf.float32)


def call_python(x: Any) -> Any:  # noqa: ANN401
    """Leave the graph."""
    return tf.ensure_shape(tf.py_function(lambda value: value, [x], tf.float32), [None, 4])


def write_hostile(folder: Path) -> None:
    """SavedModels that do more than compute."""
    for name, function in (("reader", read_a_file), ("caller", call_python)):
        module = tf.Module()
        module.serve = tf.function(function, input_signature=[tf.TensorSpec([None, 4], tf.float32)])
        tf.saved_model.save(module, str(folder / name), signatures=module.serve)
        shutil.make_archive(str(folder / name), "zip", folder, name)


def main(folder: Path, uploads: Path) -> None:
    """Write all models and their data, from the exported network and its rows."""
    warnings.simplefilter("ignore")
    network = program.load(uploads / "shapes.pt2").module
    write_onnx(network, folder)
    model = keras_of(network)
    write_keras(model, folder)
    write_hostile(folder)
    with np.load(uploads / "shapes.npz") as rows:
        arrays = dict(rows)
    pictures = arrays["picture"]
    np.savez(folder / "shapes.npz", **arrays)
    np.savez(folder / "keras-shapes.npz", **{**arrays, "picture": pictures.transpose(0, 2, 3, 1)})
    with torch.no_grad():
        np.save(folder / "scores.npy", network(torch.from_numpy(pictures)).numpy())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
