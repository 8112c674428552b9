import contextlib
import os
import queue
import signal
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import psutil
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from server.settings import RegistrySettings
from server.stack import StackState, stack_state
from server.stack.objects import KEYS_NAME, embedded_keys
from server.stack.probes import mqtt_url_answers
from server.storage import S3ObjectStore
from server.trust.names import Role
from server.trust.paths import TrustPaths
from server.trust.tls import broker_context

KEPT = "shoal/v1/d/dev-1/presence"  # the controller may write there, ingest may read
StartUp = Callable[..., Any]


class Server(Protocol):
    endpoint: str
    access_key: str
    secret_key: str


def still_running(processes: list[psutil.Process], within_s: float) -> list[psutil.Process]:
    end_s = time.monotonic() + within_s
    left = processes
    while left and time.monotonic() < end_s:
        left = [one for one in left if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
        time.sleep(0.02)
    return left


def broker_answers(data_dir: Path, state: StackState) -> bool:
    settings = RegistrySettings(data_dir=data_dir, mqtt_url=state.mqtt_url)
    return mqtt_url_answers(state.mqtt_url, broker_context(settings, Role.UP))


def store_of(data_dir: Path, state: StackState) -> S3ObjectStore:
    keys = embedded_keys(data_dir)
    return S3ObjectStore(
        endpoint=state.s3_endpoint,
        bucket=state.s3_bucket,
        access_key=keys.access_key,
        secret_key=keys.secret_key,
        region="us-east-1",
        ca=TrustPaths(data_dir / "trust").root,
    )


def connected(data_dir: Path, state: StackState, role: Role) -> Client:
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    context = broker_context(RegistrySettings(data_dir=data_dir, mqtt_url=state.mqtt_url), role)
    assert context is not None
    client.tls_set_context(context)
    client.connect("127.0.0.1", state.ports["mqtt"])
    client.loop_start()
    return client


def publish_retained(data_dir: Path, state: StackState, topic: str, payload: bytes) -> None:
    client = connected(data_dir, state, Role.CONTROLLER)
    client.publish(topic, payload, qos=1, retain=True).wait_for_publish(10)
    client.disconnect()
    client.loop_stop()


def read_retained(data_dir: Path, state: StackState, topic: str) -> bytes:
    got: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    client = connected(data_dir, state, Role.INGEST)
    client.on_message = lambda _client, _data, message: got.put(bytes(message.payload))
    client.subscribe(topic, qos=1)
    payload = got.get(timeout=10)
    client.disconnect()
    client.loop_stop()
    return payload


def test_up_term_leaves_no_process_and_a_restart_keeps_addresses_objects_and_retained_messages(
    start_up: StartUp,
) -> None:
    up = start_up()
    first = up.wait_until_up()
    assert set(first.processes) == {"mosquitto", "seaweedfs", "api", "parent"}
    assert stat.S_IMODE((up.data_dir / KEYS_NAME).stat().st_mode) == 0o600
    store = store_of(up.data_dir, first)
    stored = store.put_bytes(b"kept")
    publish_retained(up.data_dir, first, KEPT, b"kept too")
    tree = up.tree()
    assert len(tree) >= 6
    began_s = time.monotonic()
    code, said = up.end()
    assert code == 0
    assert "is not encrypted" in said
    assert time.monotonic() - began_s < 10
    assert still_running(tree, 0.5) == []
    stopped = stack_state(up.data_dir)
    assert stopped is not None
    assert (stopped.is_running, stopped.processes) == (False, {})

    again = start_up()
    second = again.wait_until_up()
    assert (second.api_url, second.mqtt_url, second.s3_endpoint) == (first.api_url, first.mqtt_url, first.s3_endpoint)
    assert store.get_bytes(stored.sha256) == b"kept"
    assert read_retained(up.data_dir, second, KEPT) == b"kept too"
    store.close()
    assert again.end(signal.SIGINT)[0] == 0


def test_up_killed_takes_its_children_along_and_a_new_one_starts(start_up: StartUp) -> None:
    up = start_up()
    first = up.wait_until_up()
    store = store_of(up.data_dir, first)
    stored = store.put_bytes(b"kept")
    publish_retained(up.data_dir, first, KEPT, b"kept too")
    children = [psutil.Process(process.pid) for process in first.processes.values()]
    grandchildren = [one for child in children for one in child.children(recursive=True)]
    up.process.kill()
    up.process.wait()
    assert still_running(children, 2.0) == []
    for one in grandchildren:  # of a part that does not care for its own children, as the job worker does
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    second = start_up().wait_until_up()
    assert second.ports == first.ports
    assert store.get_bytes(stored.sha256) == b"kept"
    assert read_retained(up.data_dir, second, KEPT) == b"kept too"
    store.close()


def test_up_second_on_the_same_folder_is_refused_with_the_pid(start_up: StartUp) -> None:
    first = start_up({})
    first.wait_until_up()
    second = start_up({})
    _, said = second.process.communicate(timeout=20)
    assert second.process.returncode == 4
    assert said.count("\n") == 1
    assert f"(pid {first.process.pid}) already runs on {first.data_dir}" in said
    assert first.process.poll() is None


def test_up_child_that_dies_is_started_again(start_up: StartUp) -> None:
    up = start_up()
    before = up.wait_until_up()
    for name in ("mosquitto", "api", "seaweedfs"):
        os.kill(before.processes[name].pid, signal.SIGKILL)
    store = store_of(up.data_dir, before)
    end_s = time.monotonic() + 30
    while True:
        after = stack_state(up.data_dir)
        assert after is not None
        fresh = {
            name
            for name, process in after.processes.items()
            if process != before.processes[name] and process.is_alive()
        }
        if fresh == {"mosquitto", "api", "seaweedfs"} and broker_answers(up.data_dir, after):
            break
        assert time.monotonic() < end_s
        time.sleep(0.05)
    code, said = up.end()
    assert code == 0
    assert "api was killed by SIGKILL; starting it again in 0.2 s" in said
    store.close()


def test_up_without_mosquitto_says_how_to_install_it(start_up: StartUp, tmp_path: Path) -> None:
    up = start_up({}, path=str(tmp_path))
    _, said = up.process.communicate(timeout=20)
    assert up.process.returncode == 3
    assert "sudo apt-get install mosquitto" in said
    assert said.count("\n") == 1


def test_up_remembered_port_taken_by_another_program_is_named(start_up: StartUp) -> None:
    up = start_up({})
    state = up.wait_until_up()
    assert up.end()[0] == 0
    with socket.create_server(("127.0.0.1", state.ports["mqtt"])):
        again = start_up({})
        _, said = again.process.communicate(timeout=20)
    assert again.process.returncode == 1
    assert f"Port {state.ports['mqtt']} for mqtt" in said
    assert said.count("\n") == 1
    assert stack_state(up.data_dir) == state.model_copy(update={"supervisor": None, "processes": {}})


def test_up_process_that_ends_while_starting_gives_its_last_line_and_log(start_up: StartUp) -> None:
    up = start_up({"api": "raise SystemExit('no database here')"})
    _, said = up.process.communicate(timeout=40)
    assert up.process.returncode == 1
    assert "api ended with status 1 while the stack was starting: no database here See " in said
    assert str(up.data_dir / "logs" / "api.log") in said


def test_up_with_parts_named_by_address_starts_only_its_own_processes(
    start_up: StartUp, broker: str, s3_server: Server
) -> None:
    up = start_up(
        mqtt_url=broker,
        s3_endpoint=s3_server.endpoint,
        s3_access_key=s3_server.access_key,
        s3_secret_key=s3_server.secret_key,
    )
    state = up.wait_until_up()
    assert set(state.processes) == {"api", "parent"}
    assert (state.mqtt_url, state.s3_endpoint) == (broker, s3_server.endpoint)
    assert up.end() == (0, "")


def test_up_with_a_broker_that_is_not_there_says_where_it_looked(start_up: StartUp) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"mqtt://127.0.0.1:{held.getsockname()[1]}"
        up = start_up({}, mqtt_url=url, s3_endpoint="http://127.0.0.1:1", s3_access_key="a", s3_secret_key="b")
        _, said = up.process.communicate(timeout=30)
    assert up.process.returncode == 1
    assert url in said


def test_up_stopped_while_starting_stops_cleanly(start_up: StartUp) -> None:
    up = start_up({"api": "import time; time.sleep(1000)"})
    deadline_s = time.monotonic() + 20
    while not (up.data_dir / "logs" / "api.log").exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    tree = up.tree()
    assert up.end() == (0, "")
    assert still_running(tree, 0.5) == []


def test_up_two_folders_run_side_by_side(start_up: StartUp) -> None:
    one, two = start_up({}, data="one"), start_up({}, data="two")
    first, second = one.wait_until_up(), two.wait_until_up()
    assert not set(first.ports.values()) & set(second.ports.values())
    assert one.end() == two.end() == (0, "")


def test_up_host_name_that_does_not_resolve_is_named(start_up: StartUp) -> None:
    up = start_up({}, host="no-such-host.invalid")
    _, said = up.process.communicate(timeout=20)
    assert up.process.returncode == 2
    assert "'no-such-host.invalid' does not resolve" in said


def test_up_on_a_host_binds_there_what_devices_need_and_keeps_the_rest_on_the_loopback(start_up: StartUp) -> None:
    up = start_up(host="127.0.0.3")
    state = up.wait_until_up()
    assert state.mqtt_url == f"mqtts://127.0.0.3:{state.ports['mqtt']}"
    store = store_of(up.data_dir, state)
    stored = store.put_bytes(b"reachable")
    assert store.presign_get(stored.sha256, 60).startswith(f"https://127.0.0.3:{state.ports['s3']}/")
    store.close()
    listening = {
        (connection.laddr.ip, connection.laddr.port)
        for process in up.tree()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    outside = {port for address, port in listening if address != "127.0.0.1"}
    assert {state.ports[name] for name in ("api", "mqtt", "s3")} <= outside
    assert not {state.ports[name] for name in state.ports if name.startswith("weed_")} & outside
    assert {address for address, _ in listening} == {"127.0.0.1", "127.0.0.3"}
