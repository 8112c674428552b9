"""What `variant list` and `variant show` say of what a worker has written."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner, Result

from edge_agent.profiles import well_known
from edge_agent.protocol.profile import Delegate, RuntimeName
from server.cli.app import app
from server.cli.variant_page import show_variant
from server.database.tables import choices, model_versions, variants
from server.schemas.catalogue import Variant
from server.schemas.common import Figure, Origin, Verdict

Registry = Any
Run = Callable[..., Result]
WIDTH = 100
WHY = "static-int8-floatio is the fastest of 2, 3 ms; the nearest alternative, float32, is slower: 7 ms."
REFUSAL = {"limit": "ram_bytes", "allowed": 1, "nearest": 2, "sentence": "no variant fits tiny: ram_bytes may be 1"}


@pytest.fixture
def run(registry: Registry) -> Run:
    """Run a command against the registry."""

    def invoke(*arguments: str, exit_code: int = 0) -> Result:
        result = CliRunner().invoke(app, list(arguments), env=registry.environment)
        assert result.exit_code == exit_code, result.output
        return result

    return invoke


def document(profile: str, recipe: str, **changes: object) -> dict[str, Any]:
    host = {"origin": "host"}
    return {
        "model": "net",
        "version": "1",
        "profile": profile,
        "variant_id": f"{recipe}-litert-xnnpack-0123456789ab",
        "recipe": recipe,
        "runtime": "litert",
        "delegate": "xnnpack",
        "verdict": "unproven",
        "chosen": False,
        "manifest_sha256": "a" * 64,
        "object_sha256": "b" * 64,
        "raw_bytes": 19_503_104,
        "wire_bytes": 18_203_104,
        "macs": 384_000_000,
        "operators": 64,
        "quantized_operators": 60,
        "delegate_partitions": 1,
        "load_ms": {"value": 31.25, **host},
        "latency_p50_ms": {"value": 1234.5678, **host},
        "latency_p95_ms": {"value": 2345.6789, "origin": "device"},
        "peak_rss_bytes": {"value": 50_000_000.0, **host},
        "metric": {"value": 0.88215, "low": 0.85, "high": 0.91, **host},
        "metric_drop": {"value": -0.00012345, "origin": "predicted"},
        "agreement": {"value": 0.99, **host},
        "steps": [
            {"step": "export-litert", "seconds": 12.345, "summary": "64 operators", "layers": {"conv.0": "CONV_2D"}}
        ],
        "created_at": 1.0,
        **changes,
    }


@pytest.fixture
def built(registry: Registry) -> list[dict[str, Any]]:
    """Two candidates for each profile that comes with Shoal, and a profile that gets nothing."""
    found = [
        document(profile, recipe, chosen=recipe == "static-int8-floatio")
        for profile in well_known()
        for recipe in ("static-int8-floatio", "float32")
    ]
    found.append(document("tiny", "float32", verdict="unmeasured", reason="it ends with signal 9", latency_p95_ms=None))
    version = {
        "model": "net",
        "version": "1",
        "task": "classification",
        "metric": "top1",
        "signature": {"inputs": [{"name": "x", "shape": [-1, 2]}], "outputs": [{"name": "y", "shape": [-1, 2]}]},
        "preprocessing": {},
        "labels": [],
        "splits": {"calibration": 1, "selection": 1, "test": 2, "groups": 4},
        "parameters": 6000,
        "source_sha256": "0" * 64,
        "source_bytes": 10,
        "eval_sha256": "1" * 64,
        "created_at": 1.0,
    }
    of_version = ("model", "version", "task", "metric", "source_sha256", "source_bytes", "eval_sha256", "created_at")
    of_variant = ("model", "version", "profile", "variant_id", "recipe", "runtime", "delegate", "verdict", "chosen")
    key = {"model": "net", "version": "1", "created_at": 1.0}
    with registry.catalogue.write() as connection:
        row = {**{name: version[name] for name in of_version}, "document": version}
        connection.execute(sa.insert(model_versions).values(row))
        for one in found:
            row = {**{name: one[name] for name in of_variant}, "document": one, "created_at": 1.0}
            connection.execute(sa.insert(variants).values(row))
        for one in found:
            if one["chosen"]:
                choice = {**key, "profile": one["profile"], "variant_id": one["variant_id"], "reason": WHY}
                connection.execute(sa.insert(choices).values(choice))
        connection.execute(sa.insert(choices).values({**key, "profile": "tiny", "refusal": REFUSAL}))
    return found


@pytest.mark.usefixtures("built")
def test_list_is_readable_at_100_columns(run: Run) -> None:
    lines = run("variant", "list", "net@1").stdout.splitlines()
    assert max(map(len, lines)) <= WIDTH
    (chosen,) = [line.split() for line in lines if line.startswith("*") and " pi-4 " in line]
    assert chosen[1:5] == ["pi-4", "static-int8-floatio", "litert/xnnpack", "unproven"]
    assert chosen[5:] == ["2,346", "d", "0.882", "h", "-0.00012", "17.4", "MiB"]
    assert str(REFUSAL["sentence"]) in lines[-1]


def test_wide_list_keeps_each_variant_on_one_line_with_its_id(run: Run, built: list[dict[str, Any]]) -> None:
    lines = run("variant", "list", "net@1", "--wide").stdout.splitlines()
    with_id = [line for line in lines if "-litert-xnnpack-0123456789ab" in line]
    assert len(with_id) == len(built)
    assert "60 of 64" in with_id[0]
    assert any("it ends with signal 9" in line for line in with_id)


def test_json_list_holds_every_variant_in_full(run: Run, built: list[dict[str, Any]]) -> None:
    found = json.loads(run("variant", "list", "net@1", "--json").stdout)
    assert len(found) == len(built)
    assert {one["recipe"]: one["steps"] for one in found} == {"float32": [], "static-int8-floatio": []}
    empty = {"low": None, "high": None, "device_variants": None}
    assert found[0]["latency_p95_ms"] == {"value": 2345.6789, "origin": "device", **empty}


@pytest.mark.usefixtures("built")
def test_show_says_the_origin_of_each_figure(run: Run) -> None:
    page = run("variant", "show", "net@1", "--profile", "pi-4").stdout
    assert page.startswith("net@1 for pi-4: static-int8-floatio-litert-xnnpack-0123456789ab\nchosen, unproven\n")
    assert max(len(line) for line in page.splitlines() if line != WHY) <= WIDTH
    lines = [line.rstrip() for line in page.splitlines()]
    figures = [line for line in lines if line.endswith(("host", "device", "predicted", "counted"))]
    told = {line[:22].strip(): line[22:].split() for line in figures}
    assert told["latency p95"] == ["2346", "ms", "device"]
    assert told["top1 on test"] == ["0.8821", "0.85", "to", "0.91", "host"]
    assert told["drop against float"][-1] == "predicted"
    assert told["int8 operators"] == ["60", "of", "64", "counted"]


@pytest.mark.parametrize("text", ["static-int8-floatio", "float32"])
@pytest.mark.usefixtures("built")
def test_show_says_why_the_profile_gets_what_it_gets(run: Run, text: str) -> None:
    assert WHY in run("variant", "show", "net@1", text, "--profile", "pi-4").stdout.splitlines()
    found = json.loads(run("variant", "choices", "net@1", "--json").stdout)
    assert {choice["profile"]: choice["reason"] for choice in found}["pi-4"] == WHY


@pytest.mark.usefixtures("built")
def test_show_tells_what_each_step_did_and_on_request_to_which_layer(run: Run) -> None:
    lines = run("variant", "show", "net@1", "--profile", "pi-4").stdout.splitlines()
    assert ["export-litert", "12.3", "64", "operators"] in [line.split() for line in lines]
    assert not any("conv.0" in line for line in lines)
    lines = run("variant", "show", "net@1", "--profile", "pi-4", "--layers").stdout.splitlines()
    assert ["export-litert", "conv.0", "CONV_2D"] in [line.split() for line in lines]


@pytest.mark.parametrize("text", ["float32", "float32-litert", "float32-litert-xnnpack-0123456789ab"])
@pytest.mark.usefixtures("built")
def test_show_finds_a_variant_by_recipe_or_by_how_its_id_begins(run: Run, text: str) -> None:
    found = json.loads(run("variant", "show", "net@1", text, "--profile", "pi-4", "--json").stdout)
    assert [one["recipe"] for one in found] == ["float32"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("v-x",), "There is no variant v-x of net@1: "),
        (("--profile", "tiny"), "There is no chosen variant of net@1 for tiny: "),
    ],
)
@pytest.mark.usefixtures("built")
def test_show_of_what_is_not_there_is_one_sentence(run: Run, arguments: tuple[str, ...], words: str) -> None:
    said = run("variant", "show", "net@1", *arguments, exit_code=1).stderr
    assert words in said
    assert "variant list net@1 --wide" in said


@pytest.mark.parametrize(
    ("count", "told"),
    [
        pytest.param(None, "predicted from published figures", id="published"),
        pytest.param(1, "predicted from 1 variant that devices measured", id="one"),
        pytest.param(7, "predicted from 7 variants that devices measured", id="many"),
    ],
)
def test_page_says_what_a_predicted_latency_stands_on(
    capsys: pytest.CaptureFixture[str], count: int | None, told: str
) -> None:
    predicted = Figure(value=9.0, low=6.0, high=12.0, origin=Origin.PREDICTED, device_variants=count)
    variant = Variant(
        model="net",
        version="1",
        profile="pi-4",
        variant_id="v",
        recipe="float32",
        runtime=RuntimeName.LITERT,
        delegate=Delegate.XNNPACK,
        verdict=Verdict.FITS,
        chosen=True,
        latency_p95_ms=predicted,
        host_cpu_model="Intel(R) N100",
        created_at=1.0,
    )
    show_variant(variant, metric="r2")
    lines = capsys.readouterr().out.splitlines()
    (line,) = (line for line in lines if line.startswith("latency p95"))
    assert "6 to 12 (spread)" in line
    assert line.endswith(told)
    assert ["host", "Intel(R) N100"] in [line.split(maxsplit=1) for line in lines]
