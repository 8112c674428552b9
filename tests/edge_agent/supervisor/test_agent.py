"""A device's story, on a real broker: joined, told what to run, updated, cut off, killed."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edge_agent.protocol.messages import Desired, DesiredDeployment, TelemetryReport, encode
from edge_agent.protocol.topics import DeviceTopic
from tests.edge_agent.supervisor.conftest import TOY_RUNNER, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.edge_agent.supervisor.conftest import Broker, Device, MqttRegistry, ToyVariant

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


def test_agent_whose_runner_cannot_be_started_tries_again(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    program = device.root.parent / "runner"
    device.flags = ["--set", f"runner_command={program}"]
    registry.want(1, {"d1": variant_of()})
    device.start()
    registry.expect_state("d1", "failed")
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {TOY_RUNNER} "$@"\n')
    program.chmod(0o755)
    registry.expect_serving("d1")


def test_agent_told_the_same_older_and_newer_ends_in_the_newest_state(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    one, two, three = (variant_of(version=str(n)) for n in (1, 2, 3))
    device.start()
    registry.expect_online()
    for generation, variant in ((3, three), (1, one), (3, three), (2, two), (1, one), (3, three)):
        registry.want(generation, {f"d{generation}": variant})

    registry.expect_serving("d3")

    device.expect_answer("3")
    status = device.status()
    assert status["desired"]["generation"] == 3
    assert status["ignored_desired"] >= 4
    assert [d["deployment_id"] for d in status["deployments"]] == ["d3"]


def test_agent_killed_serves_again_without_any_network(
    device: Device, registry: MqttRegistry, broker: Broker, variant_of: VariantOf
) -> None:
    registry.want(1, {"d1": variant_of()})
    device.start()
    registry.expect_serving("d1")
    broker.kill()
    device.kill()
    until(lambda: device.infer() is None, what="the end of the runner")

    device.start()

    device.expect_answer("1")
    assert device.status()["connected"] is False
    broker.start()
    until(lambda: device.status()["connected"], what="a connection")


def test_agent_killed_before_it_removed_a_pointer_removes_it_at_its_next_start(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    registry.want(1, {"d1": variant_of()})
    device.start()
    registry.expect_serving("d1")
    pointer = device.layout.active_pointer("net")
    content = pointer.read_bytes()
    registry.want(2, {})
    until(lambda: not pointer.exists(), what="the pointer's end")
    device.kill()
    pointer.write_bytes(content)
    folder = device.root / json.loads(content)["variant_dir"]
    folder.mkdir(parents=True, exist_ok=True)  # garbage had not been collected either

    device.start()
    until(lambda: not pointer.exists(), what="the stale pointer's end")


def test_agent_whose_disk_takes_no_pointer_serves_all_the_same(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    device.start()
    registry.expect_online()
    pointer = device.layout.active_pointer("net")
    pointer.mkdir()  # nothing can be renamed to a folder
    registry.want(1, {"d1": variant_of()})
    registry.expect_serving("d1")
    device.expect_answer("1")
    assert device.status()["complaints"] == {"disk": 1}
    pointer.rmdir()


@pytest.mark.parametrize("pause_s", [0.0, 0.4, 0.8, 1.6])
def test_agent_killed_while_it_updates_ends_in_the_wanted_state(
    device: Device, registry: MqttRegistry, variant_of: VariantOf, pause_s: float
) -> None:
    registry.want(1, {"d1": variant_of()})
    device.start()
    registry.expect_serving("d1")
    registry.block_limit = 20
    registry.want(2, {"d2": variant_of(version="2", behaviour="slow_proof", filler_bytes=60_000)})
    until(lambda: registry.state_of("d2") is not None, what="the update")
    time.sleep(pause_s)

    device.kill()
    device.start()

    registry.expect_serving("d2", timeout_s=30)
    device.expect_answer("2")


def test_agent_killed_during_a_transfer_fetches_only_what_is_missing(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    variant = variant_of(filler_bytes=200_000)
    count = variant.manifest.object.block_count
    registry.lose = lambda index: index >= 128
    registry.want(1, {"d1": variant})
    device.start()
    until(lambda: (s := registry.state_of("d1")) is not None and s.bytes_done >= 128 * 1024, what="128 blocks")
    device.kill()
    registry.asks.clear()
    registry.lose = lambda _index: False

    device.start()

    status = registry.expect_serving("d1")
    assert status.bytes_received <= (count - 128 + 1) * 1024


def test_agent_that_hears_the_first_pass_asks_only_for_what_it_missed(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    variant = variant_of(filler_bytes=100_000)
    device.flags = ["--set", "first_pass_wait_s=5", "--set", "quiet_s=0.5"]
    device.start()
    registry.expect_online()
    registry.want(1, {"d1": variant})
    registry.expect_state("d1", "downloading")

    registry.broadcast(variant, range(2, variant.manifest.object.block_count))

    registry.expect_serving("d1")
    asked = [ask for ask in registry.asks if ask.kind == "blocks"]
    assert [ask.missing[0] if ask.missing else 0 for ask in asked] == [0b11]
    assert asked[0].listening


def test_agent_with_lost_and_wrong_blocks_and_a_busy_registry_still_ends_with_the_right_file(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    tries: Counter[int] = Counter()

    def first_time(index: int) -> bool:
        tries[index] += 1
        return tries[index] == 1

    registry.lose = lambda index: index % 7 == 1 and first_time(index)
    registry.spoil = lambda index: index % 3 == 0 and first_time(index)
    registry.slow_down_left = 2
    registry.want(1, {"d1": variant_of(filler_bytes=40_000)})
    device.start()

    status = registry.expect_serving("d1", timeout_s=40)

    assert status.file_sha256 == variant_of(filler_bytes=40_000).manifest.model_file.sha256
    assert device.status()["wrong_blocks"] > 0


@pytest.mark.parametrize(
    ("topic", "payload", "complaint"),
    [
        (DeviceTopic.DESIRED, b"\x00\xffgarbage", "mqtt.desired.malformed"),
        (DeviceTopic.DESIRED, b"[" * 50_000, "mqtt.desired.malformed"),
        (DeviceTopic.DESIRED, b'{"v": 2, "epoch": 1, "generation": 9}', "mqtt.desired.unsupported_version"),
        (DeviceTopic.DESIRED, b'{"v": 1, "epoch": -1, "generation": 9}', "mqtt.desired.malformed"),
        (DeviceTopic.DESIRED, b" " * 1_000_000, "mqtt.desired.malformed"),
        (DeviceTopic.ACK, b'{"ranges": [{"spool_id": "x"}]}', "mqtt.ack.malformed"),
        (DeviceTopic.REPLY, b'{"kind": "desired", "status": "ok"}', "mqtt.reply.unasked"),
    ],
    ids=["garbage", "nested", "newer-version", "negative", "one-megabyte", "bad-ack", "unasked-reply"],
)
def test_agent_sent_a_bad_message_says_so_once_and_goes_on(
    device: Device,
    registry: MqttRegistry,
    variant_of: VariantOf,
    topic: DeviceTopic,
    payload: bytes,
    complaint: str,
) -> None:
    device.start()
    registry.expect_online()
    until(lambda: registry.statuses, what="the first status")
    for _ in range(3):
        registry.publish(topic, payload)

    registry.want(1, {"d1": variant_of()})

    registry.expect_serving("d1")
    assert device.status()["complaints"][complaint] == 3
    assert device.log.count(f"counted as {complaint}") == 1
    assert "Traceback" not in device.log


def test_agent_sent_five_megabytes_never_sees_them(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    device.start()
    registry.expect_online()
    until(lambda: registry.statuses, what="the first status")
    registry.publish(DeviceTopic.DESIRED, b"x" * 5_000_000)

    registry.want(1, {"d1": variant_of()})

    registry.expect_serving("d1")
    assert len(registry.presences) == 1, "the connection was never lost"


def test_agent_given_a_manifest_of_something_else_rejects_it(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    variant = variant_of()
    registry.offer(variant)
    wanted = variant.wanted("d1").model_copy(update={"version": "99"})
    registry.desired = Desired(epoch=1, generation=1, deployments=(wanted,))
    registry.publish(DeviceTopic.DESIRED, encode(registry.desired))
    device.start()

    assert registry.expect_state("d1", "rejected").reason == "manifest_invalid"


def test_agent_wanting_what_the_registry_does_not_have_tries_again(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    variant = variant_of()
    registry.desired = Desired(epoch=1, generation=1, deployments=(variant.wanted("d1"),), status_interval_s=1.0)
    device.start()
    registry.publish(DeviceTopic.DESIRED, encode(registry.desired))
    assert registry.expect_state("d1", "failed").reason == "object_not_found"

    registry.offer(variant)

    assert registry.expect_serving("d1").attempt >= 1


def test_agent_with_a_budget_smaller_than_the_model_rejects_it_before_fetching(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    device.flags = ["--storage-budget", "10K"]
    registry.want(1, {"d1": variant_of(filler_bytes=50_000)})
    device.start()

    refused = registry.expect_state("d1", "rejected")

    assert refused.reason == "storage_budget"
    assert refused.bytes_received == 0


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


def test_agent_whose_broker_dies_comes_back_with_a_higher_session(
    device: Device, registry: MqttRegistry, broker: Broker
) -> None:
    device.start()
    first = registry.expect_online()
    broker.kill()
    broker.start()

    second = registry.expect_online(after=1)

    assert second.session_counter > first.session_counter
    assert second.session_id != first.session_id


def test_agent_killed_is_declared_offline_by_its_will(device: Device, registry: MqttRegistry) -> None:
    device.start()
    birth = registry.expect_online()

    device.kill()

    until(lambda: not registry.presences[-1].online, what="the will")
    assert registry.presences[-1].session_id == birth.session_id


def test_second_agent_in_the_same_folder_is_refused(device: Device, registry: MqttRegistry) -> None:
    device.start()
    registry.expect_online()

    second = subprocess.run(device.command(), capture_output=True, text=True, timeout=20, check=False)

    assert second.returncode == 1
    assert second.stderr.count("\n") == 1
    assert "already runs in" in second.stderr


def test_agent_with_damaged_databases_begins_anew_and_ends_in_the_wanted_state(
    device: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    device.layout.state_db.write_bytes(b"SQLite format 3\0" + b"\xff" * 4096)
    device.layout.spool_db.write_bytes(b"nonsense" * 100)
    registry.want(1, {"d1": variant_of()})

    device.start()

    registry.expect_serving("d1")
    assert "is damaged" in device.log


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
