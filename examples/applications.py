"""The applications, and every technique that can do something for each."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressors.contract import Inputs, Recipe, StepSpec, Task

REPOSITORY = Path(__file__).resolve().parents[1]
Step = tuple[str, dict[str, Any]]
EXPORT: Step = ("export-litert", {})
INT8: Step = ("static-int8", {})
STUDENTS: dict[str, dict[str, Any]] = {  # an eighth to a quarter of the clothes network's multiplications
    "student-mobilenet-v2": {"architecture": "mobilenet-v2", "width": 0.1, "resolution": 0.6},
    "student-mobilenet-v2-hints": {"architecture": "mobilenet-v2", "width": 0.1, "resolution": 0.6, "hints": 1.0},
    "student-mobilenet-v3": {"architecture": "mobilenet-v3-small", "width": 0.25},
    "student-shufflenet-v2": {"architecture": "shufflenet-v2", "width": 0.25, "resolution": 0.6},
    "student-efficientnet-lite": {"architecture": "efficientnet-lite", "width": 0.1, "resolution": 0.6},
}


@dataclass(frozen=True)
class Application:
    """A network with its data, and what it is asked."""

    module: str  # of `examples`, which writes the files
    task: Task
    metric: str
    data: str = ""  # the evaluation set, where it is not called like the application
    version: str = "1"  # of the network, where its module writes several
    trains: bool = True
    epochs: int = 10  # of each step that trains
    pictures: bool = False
    embeds: bool = False


APPLICATIONS = {
    "price": Application("price", Task.REGRESSION, "r2", data="houses", version="2"),
    "films": Application("recommendation", Task.RANKING, "hr@10", epochs=5, embeds=True),
    "ratings": Application("recommendation", Task.REGRESSION, "rmse", epochs=5, embeds=True),
    "phishing": Application("risk", Task.CLASSIFICATION, "accuracy", epochs=30),
    "credit": Application("risk", Task.CLASSIFICATION, "accuracy", epochs=30),
    "vision": Application("vision", Task.CLASSIFICATION, "top1", data="photos", trains=False, pictures=True),
    "fashion": Application("fashion", Task.CLASSIFICATION, "top1", epochs=5, pictures=True),
}


def recipes_for(application: Application) -> tuple[Recipe, ...]:
    """Every technique that can do something for an application, by itself and in one combination."""
    tuned = ("fine-tune", {"epochs": application.epochs})
    recipes: dict[str, tuple[Step, ...]] = {
        "float32": (EXPORT,),
        "dynamic-int8": (EXPORT, ("dynamic-int8", {})),
        "dynamic-int4": (EXPORT, ("dynamic-int4", {})),
        "weight-only-int8": (EXPORT, ("weight-only", {})),
        "weight-only-int4": (EXPORT, ("weight-only", {"bits": 4})),
        "static-int8": (EXPORT, INT8),
        "static-int8-min-max": (EXPORT, ("static-int8", {"calibration": "min-max"})),
        "static-int8-per-tensor": (EXPORT, ("static-int8", {"granularity": "tensor"})),
        "static-int8-weights4": (EXPORT, ("static-int8", {"weight_bits": 4})),
        "static-int8-uint8-ends": (EXPORT, ("static-int8", {"io": "uint8"})),
        "static-int16": (EXPORT, ("static-int16", {})),
        "simulated-6-bit": (("simulate-quantization", {"weight_bits": 6, "activation_bits": 6}), EXPORT),
        "codebook-16": (("cluster", {"values": 16}), EXPORT),
        "low-rank": (("low-rank", {"energy": 0.9}), EXPORT),
        "weights-80-magnitude": (("prune-weights", {}), EXPORT),
        "weights-80-random": (("prune-weights", {"by": "random"}), EXPORT),
        "weights-80-hessian": (("prune-weights-hessian", {}), EXPORT),
        "channels-half-magnitude": (("prune-channels", {}), EXPORT),
    }
    if application.pictures:
        mended: tuple[Step, ...] = (("fold-batch-norm", {}), ("equalize-layers", {}), ("correct-biases", {}))
        recipes["static-int8-repaired"] = (*mended, EXPORT, INT8)
        for rule in ("percentile", "mse", "entropy"):
            recipes[f"static-int8-{rule}"] = (EXPORT, ("static-int8", {"calibration": rule}))
    if application.embeds:
        recipes["shared-embeddings"] = (("share-embeddings", {}), tuned, EXPORT)
        recipes["hashed-embeddings"] = (("share-embeddings", {"way": "hashed"}), tuned, EXPORT)
    if application.trains:
        epochs = {"epochs": application.epochs}
        recipes |= {
            "channels-half-random": (("prune-channels", {"by": "random"}), EXPORT),
            "channels-half-hessian": (("prune-channels-hessian", {}), EXPORT),
            "quantization-aware": (("train-quantized", epochs), EXPORT, INT8),
            "low-rank-tuned": (("low-rank", {"energy": 0.9}), tuned, EXPORT),
            "weights-80-gradual": (("prune-gradually", epochs), EXPORT),
            "channels-half-tuned": (("prune-channels", {}), tuned, EXPORT),
            "channels-half-hessian-tuned": (("prune-channels-hessian", {}), tuned, EXPORT),
            "zeros-80-codebook-16-tuned": (("prune-weights-hessian", {}), tuned, ("cluster", {"values": 16}), EXPORT),
            "channels-half-tuned-int8": (("prune-channels-hessian", {}), tuned, EXPORT, INT8),
        }
    if not application.pictures and not application.embeds:  # 4 bits cost pictures nothing here, tables stay in float
        learnt: Step = ("train-quantized", {"epochs": application.epochs, "weight_bits": 4})
        recipes["quantization-aware-weights4"] = (learnt, EXPORT, ("static-int8", {"weight_bits": 4}))
    if application.trains and application.pictures:
        recipes |= _of_trained_pictures(application)
    return tuple(
        Recipe(name=name, steps=tuple(StepSpec(step=step, parameters=parameters) for step, parameters in steps))
        for name, steps in recipes.items()
    )


def _of_trained_pictures(application: Application) -> dict[str, tuple[Step, ...]]:
    """Batch-norms to take anew, ranks to look for, and compact students with fewer multiplications than the network."""
    anew: Step = ("reestimate-batch-norm", {})
    recipes: dict[str, tuple[Step, ...]] = {
        "low-rank-half": (("low-rank", {"macs": 0.5}), EXPORT),
        "weights-80-batch-norm": (("prune-weights", {}), anew, EXPORT),
        "channels-half-batch-norm": (("prune-channels", {}), anew, EXPORT),
    }
    for name, student in STUDENTS.items():
        recipes[name] = (("student", {**student, "epochs": 3 * application.epochs}), EXPORT)
    recipes["student-int8"] = (*recipes["student-mobilenet-v2"], INT8)
    return recipes


def make(name: str, application: Application, folder: Path) -> Inputs:
    """The files of an application, written by its module if they are not there."""
    data = application.data or name
    files = {"model": f"{name}-{application.version}.pt2", "data": f"{data}.npz"}
    if application.trains:
        files["train"] = f"{data}-train.npz"
    if not all((folder / file).exists() for file in files.values()):
        command = [sys.executable, "-m", f"examples.{application.module}", str(folder)]
        subprocess.run(command, check=True, cwd=REPOSITORY)
    return Inputs(
        model=name,
        version=application.version,
        model_path=folder / files["model"],
        data_path=folder / files["data"],
        train_path=folder / files["train"] if "train" in files else None,
        task=application.task,
        metric=application.metric,
    )
