"""What devices measured, as a job is told it: of every model, of the right profile, typical of its devices."""

from collections.abc import Callable, Sequence

import pytest
import zstandard

from edge_agent.protocol.messages import LatencySketch, SelfTestReport
from edge_agent.protocol.profile import Delegate, RuntimeName
from edge_agent.protocol.sketch import new_sketch, to_wire
from server.database import tables
from server.database.connect import Database
from server.jobs.reading import read_figures
from server.schemas.catalogue import Variant
from server.schemas.common import Figure, Origin, Verdict
from server.telemetry.codec import Sketches
from server.telemetry.device_latency import INFERENCES
from tests.server.jobs.conftest import Catalogue


@pytest.fixture
def telemetry(new_database: Callable[[str], Database]) -> Database:
    database = new_database("telemetry")
    tables.telemetry.create_all(database.engine)
    return database


def add_variant(
    catalogue: Catalogue, model: str, *, profile: str = "pi4", host_cpu_model: str | None = "Intel(R) N100"
) -> str:
    variant = Variant(
        model=model,
        version="1",
        profile=profile,
        variant_id=f"{model}-{profile}",
        recipe="float32",
        runtime=RuntimeName.LITERT,
        delegate=Delegate.XNNPACK,
        verdict=Verdict.UNPROVEN,
        chosen=True,
        latency_p50_ms=Figure(value=2.0, origin=Origin.HOST),
        host_cpu_model=host_cpu_model,
        created_at=1.0,
    )
    document = variant.model_dump(mode="json")
    names = ("model", "version", "profile", "variant_id", "recipe", "runtime", "delegate", "verdict", "chosen")
    catalogue.insert(
        tables.variants, {**{name: document[name] for name in names}, "document": document, "created_at": 1.0}
    )
    return variant.variant_id


def add_device(catalogue: Catalogue, device_id: str, model: str, p95_ms: float, *, profile: str = "pi4") -> None:
    joined = {"device_id": device_id, "profile": profile, "labels": {}, "key_sha256": "0" * 64, "facts": {}}
    catalogue.insert(tables.devices, {**joined, "joined_at": 1.0})
    deployment = {
        "deployment_id": f"d-{device_id}",
        "rollout_id": f"r-{device_id}",
        "device_id": device_id,
        "wave": 0,
        "profile": profile,
        "model": model,
        "version": "1",
        "variant_id": f"{model}-pi4",
        "state": "running",
        "reason": "none",
        "detail": "",
        "updated_at": 1.0,
    }
    catalogue.insert(tables.deployments, deployment)
    report = SelfTestReport(
        passed=True, runtime=RuntimeName.LITERT, delegate=Delegate.XNNPACK, p50_ms=p95_ms / 2, p95_ms=p95_ms, runs=9
    )
    row = {"device_id": device_id, "deployment_id": f"d-{device_id}", "variant_id": f"{model}-pi4"}
    catalogue.insert(tables.device_figures, {**row, "report": report.model_dump(mode="json"), "received_at": 1.0})


def add_window(telemetry: Database, device_id: str, variant_id: str, invoke_ms: Sequence[float]) -> None:
    sketch = new_sketch()
    for value in invoke_ms:
        sketch.add(value)
    invoke: LatencySketch = to_wire(sketch)
    row = {
        "device_id": device_id,
        "spool_id": "0" * 32,
        "sequence": 1,
        "received_at": 1.0,
        "window_start": 1.0,
        "window_s": 10.0,
        "profile": "pi4",
        "model": "m",
        "version": "1",
        "variant_id": variant_id,
        "deployment_id": f"d-{device_id}",
        "requests": len(invoke_ms),
        "inferences": len(invoke_ms),
        "errors": {},
        "error_count": 0,
        "sketches": zstandard.compress(Sketches(invoke=invoke).model_dump_json(exclude_defaults=True).encode()),
        "rss_bytes": 1,
        "dropped_reports": 0,
    }
    with telemetry.write() as connection:
        connection.execute(tables.reports.insert(), row)


def test_figures_are_of_every_model_and_typical_of_its_devices(catalogue: Catalogue, telemetry: Database) -> None:
    for model in ("net", "other"):
        add_variant(catalogue, model)
    for number, p95_ms in enumerate((10.0, 11.0, 1e9)):  # the last one lies
        add_device(catalogue, f"a{number}", "net", p95_ms)
    add_device(catalogue, "b", "other", 30.0)
    found = {one.variant_id: one for one in read_figures(catalogue.database, telemetry, ("pi4",))}
    assert {name: one.p95_ms for name, one in found.items()} == {"net-pi4": 11.0, "other-pi4": 30.0}
    host = found["net-pi4"].host
    assert host is not None
    assert (host.runtime, host.delegate, host.last_step, host.p50_ms) == ("litert", "xnnpack", "export-litert", 2.0)
    assert host.cpu_model == "Intel(R) N100"


def test_figure_of_a_host_whose_cpu_nobody_wrote_down_calibrates_nothing(
    catalogue: Catalogue, telemetry: Database
) -> None:
    add_variant(catalogue, "net", host_cpu_model=None)
    add_device(catalogue, "a", "net", 10.0)
    (found,) = read_figures(catalogue.database, telemetry, ("pi4",))
    assert (found.p95_ms, found.host) == (10.0, None)


def test_figure_of_an_attempt_that_another_has_replaced_still_tells_what_was_too_slow(
    catalogue: Catalogue, telemetry: Database
) -> None:
    add_variant(catalogue, "net")
    add_device(catalogue, "slow", "net", 90.0)
    with catalogue.database.write() as connection:
        connection.execute(tables.deployments.update().values(deployment_id="d-again", variant_id=None))
    (figure,) = read_figures(catalogue.database, telemetry, ("pi4",))
    assert (figure.variant_id, figure.p95_ms) == ("net-pi4", 90.0)


def test_figures_of_other_profiles_are_not_read(catalogue: Catalogue, telemetry: Database) -> None:
    add_variant(catalogue, "net")
    add_device(catalogue, "moved", "net", 10.0, profile="pi3")  # it ran the variant before it got another profile
    assert read_figures(catalogue.database, telemetry, ("pi4",)) == ()
    assert read_figures(catalogue.database, telemetry, ("pi3",)) == ()


def test_figure_under_load_goes_before_the_self_test_where_there_is_enough_of_it(
    catalogue: Catalogue, telemetry: Database
) -> None:
    variant_id = add_variant(catalogue, "net")
    add_device(catalogue, "warm", "net", 10.0)
    add_window(telemetry, "warm", variant_id, [25.0] * INFERENCES)
    (figure,) = read_figures(catalogue.database, telemetry, ("pi4",))
    assert figure.p95_ms == pytest.approx(25.0, rel=0.02)


def test_self_test_counts_where_telemetry_holds_too_little(catalogue: Catalogue, telemetry: Database) -> None:
    variant_id = add_variant(catalogue, "net")
    add_device(catalogue, "idle", "net", 10.0)
    add_window(telemetry, "idle", variant_id, [25.0] * (INFERENCES - 1))
    (figure,) = read_figures(catalogue.database, telemetry, ("pi4",))
    assert figure.p95_ms == 10.0
