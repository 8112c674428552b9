"""A device's story, on a real broker: joined, told what to run, updated, cut off, killed."""

from __future__ import annotations

import http.client
import json
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.protocol.messages import Desired, DesiredDeployment, TelemetryReport, encode
from tests.edge_agent.surroundings.device import TOY_RUNNER
from tests.edge_agent.surroundings.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.edge_agent.surroundings.broker import Broker
    from tests.edge_agent.surroundings.device import Device
    from tests.edge_agent.surroundings.mqtt_registry import MqttRegistry
    from tests.edge_agent.surroundings.toy_variant import ToyVariant

    VariantOf = Callable[..., ToyVariant]


def test_agent_told_of_a_model_fetches_proves_and_serves_it(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    registry.want(1, {"d1": variant_of()})
    device.start()

    status = registry.expect_serving("d1")

    device.expect_answer("1")
    assert status.self_test is not None
    assert status.self_test.passed
    assert status.file_sha256 == variant_of().manifest.model_file.sha256
    assert status.bytes_received >= len(variant_of().travelling)
    assert registry.statuses[-1].observed_generation == 1
    assert registry.history_of("d1")[-1] == "active"
    pointer = json.loads(device.layout.active_pointer("net").read_text())
    assert (device.root / pointer["variant_dir"] / "model").exists()
    assert not list((device.root / "transfers").iterdir()), "nothing is left of the transfer"


def test_agent_updated_swaps_and_keeps_the_previous_variant(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    registry.want(1, {"d1": variant_of()})
    device.start()
    registry.expect_serving("d1")

    registry.want(2, {"d2": variant_of(version="2")})

    registry.expect_serving("d2")
    device.expect_answer("2")
    assert registry.expect_state("d1", "superseded").serving is False
    assert len(list((device.root / "variants").iterdir())) == 2


def test_agent_with_a_variant_that_fails_its_self_test_keeps_the_old_one(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    registry.want(1, {"d1": variant_of()})
    device.start()
    registry.expect_serving("d1")

    registry.want(2, {"d2": variant_of(version="2", behaviour="refuse")})

    refused = registry.expect_state("d2", "rejected")
    assert refused.reason == "golden_mismatch"
    assert refused.self_test is not None
    assert refused.self_test.golden_max_error == 3.5
    assert registry.serving("d1")
    device.expect_answer("1")


def test_agent_with_a_variant_that_crashes_in_service_falls_back(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    registry.want(1, {"d1": variant_of()})
    device.start()
    registry.expect_serving("d1")

    registry.want(2, {"d2": variant_of(version="2", behaviour="crash_when_serving")})

    fallen = registry.expect_state("d2", "rolled_back")
    assert fallen.reason == "crash_loop"
    registry.expect_serving("d1")
    device.expect_answer("1")


def test_agent_whose_variant_crashes_on_load_refuses_it_after_a_few_tries(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    registry.want(1, {"d1": variant_of(behaviour="crash_on_load")})
    device.start()

    refused = registry.expect_state("d1", "rejected")

    assert refused.reason == "runner_crashed"
    assert "SIGSEGV" in refused.detail


def test_agent_whose_runner_hangs_kills_and_restarts_it(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    device.flags = ["--set", "runner_silence_s=1"]
    registry.want(1, {"d1": variant_of()})
    device.start()
    registry.expect_serving("d1")

    registry.want(2, {"d2": variant_of(version="2", behaviour="hang")})

    assert registry.expect_state("d2", "rolled_back", timeout_s=30).reason == "crash_loop"
    device.expect_answer("1")


def test_agent_with_several_models_serves_both_on_one_port(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    registry.want(1, {"d1": variant_of(), "e1": variant_of(model="other", version="7")})
    device.start()
    registry.expect_serving("d1")
    registry.expect_serving("e1")

    device.expect_answer("1")
    device.expect_answer("7", model="other")
    registry.want(2, {"e1": variant_of(model="other", version="7")})

    registry.expect_state("d1", "superseded")
    device.expect_answer("7", model="other")
    assert not device.layout.active_pointer("net").exists()


def test_agent_told_of_a_second_model_while_its_front_still_leaves_answers_on_the_port(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    other = variant_of(model="other", version="7")
    device.flags = ["--set", f"front_command={sys.executable} -m edge_agent.front"]
    registry.want(1, {"d1": variant_of(), "e1": other})
    device.start()
    registry.expect_serving("d1")
    registry.expect_serving("e1")
    idle = http.client.HTTPConnection("127.0.0.1", device.port, timeout=5)  # it keeps the front for its whole drain
    idle.request("GET", "/v2/health/live")
    idle.getresponse().read()

    registry.want(2, {"e1": other})
    registry.expect_state("d1", "superseded")
    device.expect_answer("7", model="other")
    registry.want(3, {"e1": other, "f1": variant_of(model="third", version="9")})

    registry.expect_serving("f1")
    device.expect_answer("9", model="third")
    device.expect_answer("7", model="other")
    idle.close()


def test_agent_whose_runner_cannot_be_started_tries_until_it_can(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    program = device.root.parent / "runner"
    device.flags = ["--set", f"runner_command={program}"]
    registry.want(1, {"d1": variant_of()})
    device.start()
    # more often than a variant may crash in its self-test: it is not the variant's fault
    until(lambda: (d := registry.state_of("d1")) is not None and d.attempt >= 4, what="four tries")
    assert "rejected" not in registry.history_of("d1")
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {TOY_RUNNER} "$@"\n')
    program.chmod(0o755)
    registry.expect_serving("d1")


def test_agent_without_room_for_two_runners_stops_swaps_and_restores(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    device.flags = ["--memory-budget", "80M"]  # one runner fits, two do not
    registry.want(1, {"d1": variant_of()})
    device.start()
    registry.expect_serving("d1")

    registry.want(2, {"d2": variant_of(version="2", behaviour="refuse")})
    registry.expect_state("d2", "rejected")
    registry.expect_serving("d1")
    device.expect_answer("1")
    registry.want(3, {"d3": variant_of(version="3")})

    registry.expect_serving("d3")
    device.expect_answer("3")


def test_agent_spools_telemetry_until_the_registry_has_committed_it(
    device: Device, registry: MqttRegistry, broker: Broker, variant_of: VariantOf
) -> None:
    registry.acknowledge = False
    registry.want(1, {"d1": variant_of()})
    device.start()
    registry.expect_serving("d1")
    for _ in range(10):
        device.expect_answer("1")
    until(lambda: sum(r.requests for r in registry.reports) >= 10, what="telemetry")
    sent = {(r.spool_id, r.sequence) for r in registry.reports}
    assert device.status()["spool"]["reports"] >= len(sent)
    broker.kill()
    device.kill()
    registry.acknowledge = True
    registry.reports.clear()
    broker.start()

    device.start()

    until(lambda: sent <= {(r.spool_id, r.sequence) for r in registry.reports}, what="the same reports again")
    until(lambda: device.status()["spool"]["reports"] == 0, what="an empty spool")
    assert registry.expect_serving("d1").deployment_id == "d1"


def test_agent_passes_on_windows_of_in_process_models_and_refuses_others(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    registry.want(1, {"d1": variant_of()})
    device.start()
    registry.expect_serving("d1")
    window = TelemetryReport(
        spool_id="0" * 32,
        sequence=0,
        model="net",
        version="1",
        variant_id="net-1-variant",
        deployment_id="d1",
        window_start=0.0,
        window_s=1.0,
        source="inprocess",
        requests=5,
        inferences=5,
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as app:
        app.connect(str(device.layout.report_socket))
        app.send(b"not a window")
        app.send(encode(window.model_copy(update={"deployment_id": "stranger"})))
        app.send(encode(window))

    until(lambda: any(r.source == "inprocess" for r in registry.reports), what="the window")

    complaints = device.status()["complaints"]
    assert complaints["report.malformed"] == 1
    assert complaints["report.unknown"] == 1


def test_agent_told_to_stop_says_goodbye_and_leaves_nothing_behind(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    registry.want(1, {"d1": variant_of()})
    device.start()
    registry.expect_serving("d1")
    pids = device.status()["pids"].values()

    assert device.stop() == 0

    until(lambda: not registry.presences[-1].online, what="the goodbye")
    until(lambda: not registry.statuses[-1].deployments[0].serving, what="the last status")
    assert not [pid for pid in pids if _alive(pid)]
    assert not list((device.root / "run").iterdir())


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_agent_told_of_a_model_twice_in_one_desired_runs_the_first(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    wanted: tuple[DesiredDeployment, ...] = (variant_of().wanted("d1"), variant_of(version="2").wanted("d2"))
    registry.offer(variant_of(), variant_of(version="2"))
    registry.desired = Desired(epoch=1, generation=1, deployments=wanted, status_interval_s=1.0)
    device.start()

    registry.expect_serving("d1")

    assert registry.state_of("d2") is None
