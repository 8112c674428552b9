"""The one error root of the compressors; each sentence says what was wrong and what to do."""

from __future__ import annotations

from typing import ClassVar


class CompressorError(Exception):
    """A compressor refuses or fails; `code` is its wire string."""

    code: ClassVar[str] = "compression_failed"


class ArchiveError(CompressorError):
    """The upload is in no format that may be loaded, or damaged."""

    code = "bad_archive"


class ExtraMissingError(CompressorError):
    """A library of an optional extra is not installed where jobs run."""

    code = "extra_missing"


class SignatureError(CompressorError):
    """The exported program takes or gives something that an app can't be shown."""

    code = "bad_signature"


class WeightError(CompressorError):
    """A weight of the network is no number."""

    code = "bad_weights"


class RehydrationError(CompressorError):
    """The network that was rebuilt from an exported program does not answer as the program does."""

    code = "not_rebuilt"


class ModelRunError(CompressorError):
    """The model does not get through the data, or what it answers is no number."""

    code = "model_run_failed"


class DataError(CompressorError):
    """The evaluation data do not fit the model or the task."""

    code = "bad_data"


class MetricError(CompressorError):
    """The metric does not exist or does not fit the task."""

    code = "bad_metric"


class ConversionError(CompressorError):
    """The network cannot be converted for the target."""

    code = "conversion_failed"


class GpuMissingError(CompressorError):
    """A GPU was asked for where there is none."""

    code = "gpu_missing"


class TrainingError(CompressorError):
    """A network can't be trained, or training runs away."""

    code = "training_failed"


class NoEffectError(CompressorError):
    """A step left the file as it was."""

    code = "no_effect"


class RecipeError(CompressorError):
    """A recipe that does not exist, or whose steps are in an order that cannot work."""

    code = "bad_recipe"


class GateError(CompressorError):
    """A step of a recipe cost more of the metric than the recipe allows there."""

    code = "gate_closed"


class SearchError(CompressorError):
    """A search can't begin or go on as it was asked for."""

    code = "search_failed"


class ReportError(CompressorError):
    """A variant can't be reported on: its files are not those of its manifest, or it does not run here."""

    code = "report_failed"
