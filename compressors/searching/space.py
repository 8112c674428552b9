"""Which recipes a search may try, define-by-run: each choice asks only for what makes sense behind the ones before.

The usual recipes come first, then a few that the facts point at; the sampler goes on from there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from compressors.contract import Recipe, StepSpec
from compressors.files.formats import Form
from compressors.recipes import RECIPES, recipe_hash
from compressors.searching.loop import Space
from compressors.students import Architecture

if TYPE_CHECKING:
    from collections.abc import Iterator

    import optuna
    from pydantic import JsonValue

    from compressors.searching.facts import Facts

    Ask = optuna.trial.BaseTrial
    Choices = dict[str, JsonValue]

Value = TypeVar("Value", str, int, bool)

NOTHING = "nothing"
_LITERT, _ONNX = StepSpec(step="export-litert"), StepSpec(step="export-onnx")
NUMBERS: dict[Form, dict[str, tuple[StepSpec, ...]]] = {  # that a file of each format can hold
    Form.LITERT: {
        "float32": (_LITERT,),
        "dynamic-int8": (_LITERT, StepSpec(step="dynamic-int8")),
        "static-int8": (_LITERT, StepSpec(step="static-int8")),
        "weight-only-int8": (_LITERT, StepSpec(step="weight-only")),
        "dynamic-int4": (_LITERT, StepSpec(step="dynamic-int4")),
        "weight-only-int4": (_LITERT, StepSpec(step="weight-only", parameters={"bits": 4})),
    },
    Form.ONNX: {
        "float32": (_ONNX,),
        "dynamic-int8": (_ONNX, StepSpec(step="dynamic-int8-onnx")),
        "static-int8": (_ONNX, StepSpec(step="static-int8-onnx")),
    },
    Form.EXECUTORCH: {
        "float32": (StepSpec(step="export-executorch"),),
        "static-int8": (StepSpec(step="export-executorch", parameters={"quantize": "static-int8"}),),
    },
}
USUAL = 4  # numbers of each format that are always tried, the first of them
CODEBOOKS = (0, 16, 64)  # shared values of a layer's weights; 0: each has its own
SENSITIVE_BY = ("noise", "curvature")  # what names the layers that stay in float, where the two name others
STEP_PERCENT = 5
GENTLE_PERCENT = 65  # of the multiplications that are left at least where nothing can be trained on
LEAST_ENERGY_PERCENT = {True: 60, False: 90}  # of a layer that low-rank factors keep, where training mends them or not
ZEROS_PERCENT = {True: (50, 90), False: (10, 40)}  # of the weights, where training mends them or not
NAME_CHARACTERS = 17  # what runtime, delegate and digest leave of a variant's id
HASH_CHARACTERS = 8


def space_of(facts: Facts) -> Space:
    """The recipes for a model, a set of data and a profile that these are the facts of."""

    def suggest(ask: Ask) -> Recipe:
        return named(tuple(_steps(ask, facts)))

    return Space(suggest, tuple(_first(facts)))


def named(steps: tuple[StepSpec, ...]) -> Recipe:
    """A recipe under the name that its steps are known by, or under one of a search: its last step and a hash."""
    recipe = Recipe(name="auto", steps=steps)
    digest = recipe_hash(recipe)
    known = next((name for name, one in RECIPES.items() if recipe_hash(one) == digest), None)
    name = known or f"auto-{steps[-1].step[:NAME_CHARACTERS]}-{digest[:HASH_CHARACTERS]}"
    return recipe.model_copy(update={"name": name})


def _steps(ask: Ask, facts: Facts) -> Iterator[StepSpec]:
    """Narrower, then sparser, then trained, then rounded: each step keeps what the ones before it did."""
    if not facts.has_layers:
        yield from NUMBERS[facts.forms[0]][_numbers(ask, facts.forms[0])]
        return
    shrink = _one_of(ask, "shrink", _shrinks(facts))
    yield from _shrunk(ask, facts, shrink)
    is_taught = shrink in {"student", "prune-gradually"}
    tables = _one_of(ask, "tables", (NOTHING, "shared", "hashed")) if facts.has_tables else NOTHING
    if tables != NOTHING:
        rows = ask.suggest_int("table_rows_percent", 10, 50, step=10) / 100
        yield StepSpec(step="share-embeddings", parameters={"way": tables, "rows": rows})
    zeros = NOTHING if is_taught else _one_of(ask, "zeros", (NOTHING, "prune-weights", "prune-weights-hessian"))
    if zeros != NOTHING:
        least, most = ZEROS_PERCENT[facts.mends]
        percent = ask.suggest_int("zeros_percent", least, most, step=10)
        yield StepSpec(step=zeros, parameters={"sparsity": percent / 100})
    is_damaged = not is_taught and {shrink, tables, zeros} != {NOTHING}
    if is_damaged and facts.mends and _one_of(ask, "fine_tune", (True, False)):
        yield StepSpec(step="fine-tune", parameters={"epochs": facts.epochs})
    codebook = _one_of(ask, "codebook", CODEBOOKS) if facts.has_wide_layers else 0
    if codebook:
        yield StepSpec(step="cluster", parameters={"values": codebook})
    yield from _rounded(ask, facts, may_move=zeros == NOTHING and not codebook)


def _shrinks(facts: Facts) -> tuple[str, ...]:
    """What makes fewer multiplications, as far as it can work."""
    narrow = ("prune-channels", "prune-channels-hessian") if facts.narrowest_percent is not None else ()
    gradual = ("prune-gradually",) if facts.narrowest_percent is not None and facts.mends else ()
    factors = ("low-rank",) if (facts.energy_percent or 0) >= LEAST_ENERGY_PERCENT[facts.mends] else ()
    students = ("student",) if facts.student_percent else ()
    return (NOTHING, *narrow, *factors, *gradual, *students)


def _shrunk(ask: Ask, facts: Facts, shrink: str) -> Iterator[StepSpec]:
    if shrink in {"prune-channels", "prune-channels-hessian", "prune-gradually"}:
        least = max(facts.narrowest_percent or 0, 0 if facts.mends else GENTLE_PERCENT)
        percent = ask.suggest_int("macs_percent", least, 90, step=STEP_PERCENT)
        spared = ask.suggest_int("spared", 0, facts.spared) if facts.spared else 0
        skip: Choices = {"skip": list(facts.sensitive[:spared])} if spared else {}
        if shrink == "prune-gradually":
            rounds = min(5, facts.epochs)
            given: Choices = {
                "what": "channels",
                "gone": round(1 - percent / 100, 2),
                "rounds": rounds,
                "epochs": facts.epochs,
            }
            yield StepSpec(step=shrink, parameters=given | skip)
        else:
            yield StepSpec(step=shrink, parameters={"macs": percent / 100, **skip})
    elif shrink == "low-rank":
        least = LEAST_ENERGY_PERCENT[facts.mends]
        percent = ask.suggest_int("energy_percent", least, facts.energy_percent or least)
        yield StepSpec(step=shrink, parameters={"energy": percent / 100})
    elif shrink == "student":
        architecture = _one_of(ask, "architecture", tuple(map(str, facts.student_percent)))
        percent = ask.suggest_int("width_percent", 25, facts.student_percent[Architecture(architecture)], step=25)
        yield StepSpec(step=shrink, parameters={"architecture": architecture, "width": percent / 100})


def _rounded(ask: Ask, facts: Facts, *, may_move: bool) -> Iterator[StepSpec]:
    """The file and the numbers in it; `may_move`: weights may be changed so that they round better."""
    form = Form(_one_of(ask, "form", tuple(map(str, facts.forms))))
    numbers = _numbers(ask, form)
    if numbers != "static-int8":
        yield from NUMBERS[form][numbers]
        return
    if may_move and facts.mends and _one_of(ask, "train_quantized", (False, True)):
        yield StepSpec(step="train-quantized", parameters={"epochs": max(1, facts.epochs // 2)})
    if may_move and _one_of(ask, "repairs", (False, True)):
        yield from (StepSpec(step=name) for name in ("fold-batch-norm", "equalize-layers", "correct-biases"))
    if form is Form.ONNX:
        yield from (_ONNX, StepSpec(step="static-int8-onnx", parameters=_onnx_numbers(ask)))
        return
    if form is not Form.LITERT:
        yield from NUMBERS[form][numbers]
        return
    most = facts.outstanding or min(1, len(facts.sensitive) - 1)
    float_layers = ask.suggest_int("float_layers", 0, most) if most > 0 else 0
    parameters: Choices = {"float_layers": float_layers} if float_layers else {}
    if facts.curvature_differs(float_layers) and _one_of(ask, "sensitive_by", SENSITIVE_BY) != SENSITIVE_BY[0]:
        parameters["sensitive_by"] = "curvature"
    yield _LITERT
    yield StepSpec(step="static-int8", parameters=parameters | _granularity(ask))


def _onnx_numbers(ask: Ask) -> Choices:
    unsigned: Choices = {"activations": "uint8"} if _one_of(ask, "unsigned", (False, True)) else {}
    return unsigned | _granularity(ask)


def _granularity(ask: Ask) -> Choices:
    """One scale a tensor: fewer bytes, and often as right."""
    return {"granularity": "tensor"} if _one_of(ask, "per_tensor", (False, True)) else {}


def _numbers(ask: Ask, form: Form) -> str:
    return _one_of(ask, f"{form}_numbers", tuple(NUMBERS[form]))


def _first(facts: Facts) -> Iterator[Choices]:
    """What is tried before the sampler chooses: the usual recipes, then what the facts point at."""
    yield from _usual(facts)
    if not facts.has_layers:
        return
    form = facts.forms[0]
    yield from _left_in_float(facts, form)
    yield _chosen(form, "static-int8", repairs=True)
    if form is Form.LITERT:
        yield _chosen(form, "static-int8", per_tensor=True)
        yield _chosen(form, "dynamic-int4")
    if facts.has_tables:
        numbers = "dynamic-int8" if "dynamic-int8" in NUMBERS[form] else "float32"
        yield _chosen(form, numbers, tables="shared", fine_tune=True)
    if facts.narrowest_percent is not None:
        half = max(facts.narrowest_percent, 50 if facts.mends else 80)
        yield _chosen(form, "static-int8", shrink="prune-channels-hessian", macs_percent=half, fine_tune=True)
    if facts.mends:
        yield _chosen(form, "static-int8", train_quantized=True)
    else:  # a few zeros that the other weights make up for: the download shrinks, and nothing else changes
        yield _chosen(form, "static-int8", zeros="prune-weights-hessian", zeros_percent=ZEROS_PERCENT[False][0])
    if facts.student_percent:
        architecture, percent = next(iter(facts.student_percent.items()))
        yield _chosen(form, "static-int8", shrink="student", architecture=str(architecture), width_percent=percent)


def _usual(facts: Facts) -> Iterator[Choices]:
    for form in facts.forms:
        for numbers in list(NUMBERS[form])[:USUAL]:
            yield _chosen(form, numbers)
    if facts.has_layers and Form.ONNX in facts.forms:  # which of these is the fastest differs from CPU to CPU
        yield _chosen(Form.ONNX, "static-int8", unsigned=True)
        yield _chosen(Form.ONNX, "static-int8", unsigned=True, per_tensor=True)


def _left_in_float(facts: Facts, form: Form) -> Iterator[Choices]:
    """The layers that stand out, and those that the curvature names in their place."""
    if facts.outstanding and form is Form.LITERT:
        yield _chosen(form, "static-int8", float_layers=facts.outstanding)
        if facts.curvature_differs(facts.outstanding):
            yield _chosen(form, "static-int8", float_layers=facts.outstanding, sensitive_by="curvature")


def _chosen(form: Form, numbers: str, **choices: JsonValue) -> Choices:
    """These choices, and for all else that may be asked nothing special; what is not asked for does not count."""
    plain: Choices = {
        "form": str(form),
        f"{form}_numbers": numbers,
        "shrink": NOTHING,
        "tables": NOTHING,
        "table_rows_percent": 20,
        "zeros": NOTHING,
        "fine_tune": False,
        "codebook": 0,
        "train_quantized": False,
        "repairs": False,
        "float_layers": 0,
        "sensitive_by": SENSITIVE_BY[0],
        "per_tensor": False,
        "unsigned": False,
        "spared": 0,
    }
    return plain | choices


def _one_of(ask: Ask, name: str, choices: tuple[Value, ...]) -> Value:
    """One of some values; what leaves no choice is not asked for."""
    if len(choices) == 1:
        return choices[0]
    chosen: Value = ask.suggest_categorical(name, choices)
    return chosen
