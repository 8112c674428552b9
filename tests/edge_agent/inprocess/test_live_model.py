from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import edge_agent
from edge_agent.defer import DeferError
from edge_agent.errors import EdgeAgentError, ModelNotActiveError
from edge_agent.inprocess import LiveModel
from edge_agent.protocol.profile import RuntimeName
from edge_agent.runtimes.convert import InputError
from tests.edge_agent.inprocess.conftest import until

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.protocol.signature import ModelSignature
    from tests.edge_agent.conftest import Workshop
    from tests.edge_agent.inprocess.conftest import DataDir


@pytest.fixture
def opened(data_dir: DataDir, workshop: Workshop) -> LiveModel:
    data_dir.activate(workshop.float_file(), workshop.network.signature, window_s=0.2)
    return LiveModel.open("tiny", data_dir.layout.root)


def test_run_by_name_or_by_array_gives_the_network_s_numbers(opened: LiveModel, workshop: Workshop) -> None:
    rows = workshop.network.samples(3)
    with opened as model:
        np.testing.assert_allclose(model.run(rows)["scores"], workshop.network.expected(rows), atol=1e-5)
        named = model.run({"features": rows.astype(np.float64)})
        np.testing.assert_allclose(named["scores"], workshop.network.expected(rows), atol=1e-5)
        assert (model.version, model.variant_id) == ("1", "tiny-1-variant")


def test_load_of_the_package_finds_the_data_dir_of_the_environment(
    opened: LiveModel, data_dir: DataDir, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened.close()
    monkeypatch.setenv("SHOAL_AGENT_DIR", str(data_dir.layout.root))
    with edge_agent.load("tiny") as model:
        assert model.run(workshop.network.samples(1))["scores"].shape == (1, 4)


@pytest.mark.parametrize("name", ["other", "../tiny", "", "a b", "x" * 300])
def test_open_of_a_model_that_is_not_active_says_so(data_dir: DataDir, name: str) -> None:
    with pytest.raises(ModelNotActiveError, match="edge-agent status"):
        LiveModel.open(name, data_dir.layout.root)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": "tiny"}'])
def test_open_with_a_broken_pointer_is_not_active(data_dir: DataDir, content: str) -> None:
    data_dir.layout.active_pointer("tiny").write_text(content)
    with pytest.raises(ModelNotActiveError):
        LiveModel.open("tiny", data_dir.layout.root)


def test_open_with_a_pointer_out_of_the_data_dir_is_refused(opened: LiveModel, data_dir: DataDir) -> None:
    opened.close()
    path = data_dir.layout.active_pointer("tiny")
    pointer = json.loads(path.read_text())
    pointer["variant_dir"] = "../../elsewhere"
    path.write_text(json.dumps(pointer))
    with pytest.raises(EdgeAgentError, match="outside"):
        LiveModel.open("tiny", data_dir.layout.root)


def test_run_with_inputs_that_do_not_fit_is_refused_and_counted(
    opened: LiveModel, data_dir: DataDir, workshop: Workshop
) -> None:
    data_dir.listen()
    rows = workshop.network.samples(1)
    bad: list[Any] = [
        {},
        {"features": rows.tolist()},
        rows.astype(np.int32),
        rows[:, :3],
        rows[:0],
        np.full_like(rows, np.nan),
        rows.astype(np.float64) * 1e300,
        {"features": rows, "more": rows},
        {"features": rows, 1: rows},
        [1],
        None,
    ]
    with opened as model:
        for inputs in bad:
            with pytest.raises(InputError):
                model.run(inputs)
        assert model.run(rows)["scores"].shape == (1, 4)
    report = data_dir.report()
    assert report.errors == {"bad_request": len(bad)}
    assert (report.requests, report.inferences) == (len(bad) + 1, 1)


def test_windows_are_sent_and_name_the_deployment(opened: LiveModel, data_dir: DataDir, workshop: Workshop) -> None:
    data_dir.listen()
    with opened as model:
        model.run(workshop.network.samples(4))
        model.run(workshop.network.samples(1))
        report = data_dir.report()
    assert (report.source, report.deployment_id, report.version) == ("inprocess", "d-1", "1")
    assert (report.requests, report.inferences) == (2, 5)
    assert report.invoke.count == report.queue.count == report.preprocess.count == 2
    assert 0 < report.window_s < 5
    assert report.rss_bytes > 1 << 20


def test_model_with_a_window_longer_than_any_clock_follows_all_the_same(data_dir: DataDir, workshop: Workshop) -> None:
    data_dir.activate(workshop.float_file(), workshop.network.signature, window_s=1e300)
    with LiveModel.open("tiny", data_dir.layout.root) as model:
        data_dir.activate(workshop.float_file(), workshop.network.signature, deployment="d-2", version="2")
        model.run(workshop.network.samples(1))
        until(lambda: model.version == "2")


def test_windows_while_the_agent_is_away_are_kept_and_inference_goes_on(
    opened: LiveModel, data_dir: DataDir, workshop: Workshop
) -> None:
    rows = workshop.network.samples(1)
    with opened as model:
        ends_s = time.monotonic() + 0.7
        runs = 0
        while time.monotonic() < ends_s:
            model.run(rows)
            runs += 1
            time.sleep(0.01)
        data_dir.listen()
        counted = 0
        while counted < runs:
            counted += data_dir.report().requests
        assert counted == runs


def test_close_sends_the_last_window_and_ends_the_model(
    opened: LiveModel, data_dir: DataDir, workshop: Workshop
) -> None:
    data_dir.listen()
    opened.run(workshop.network.samples(1))
    opened.close()
    opened.close()
    assert data_dir.report().requests == 1
    with pytest.raises(ModelNotActiveError, match="closed"):
        opened.run(workshop.network.samples(1))


def test_end_of_the_program_without_close_sends_the_last_window(data_dir: DataDir, workshop: Workshop) -> None:
    data_dir.activate(workshop.float_file(), workshop.network.signature, window_s=60.0)
    data_dir.listen()
    code = "import edge_agent, numpy; edge_agent.load('tiny').run(numpy.zeros((1, 8), numpy.float32))"
    environment = {**os.environ, "SHOAL_AGENT_DIR": str(data_dir.layout.root)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=30)
    assert data_dir.report().inferences == 1


def test_swap_under_load_answers_all_and_counts_each_once(data_dir: DataDir, workshop: Workshop) -> None:
    signature, rows = workshop.network.signature, workshop.network.samples(2)
    data_dir.activate(workshop.float_file(), signature, window_s=0.2)
    data_dir.listen()
    stop, failures, runs = threading.Event(), [], [0, 0, 0]
    with LiveModel.open("tiny", data_dir.layout.root) as model:

        def work(index: int) -> None:
            while not stop.is_set():
                scores = model.run(rows)["scores"]
                runs[index] += 1
                if np.abs(scores - workshop.network.expected(rows)).max() > 0.08:
                    failures.append(scores)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(len(runs))]
        for thread in threads:
            thread.start()
        for number, file in enumerate((workshop.int8_file(), workshop.uint8_file(), workshop.float_file()), start=2):
            data_dir.activate(file, signature, deployment=f"d-{number}", version=str(number), window_s=0.2)
            until(lambda number=number: model.version == str(number))  # type: ignore[misc]  # mypy sees no type of number
        before = sum(runs)
        until(lambda: sum(runs) > before + len(runs))  # each thread may have been inside the old model's run
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    counted: dict[str, int] = {}
    while sum(counted.values()) < sum(runs):
        report = data_dir.report()
        counted[report.deployment_id] = counted.get(report.deployment_id, 0) + report.requests
    assert sum(counted.values()) == sum(runs)
    assert set(counted) == {"d-1", "d-2", "d-3", "d-4"}


def test_swap_to_a_file_that_does_not_load_keeps_the_old_and_reports(
    opened: LiveModel, data_dir: DataDir, workshop: Workshop
) -> None:
    data_dir.listen()
    rows = workshop.network.samples(1)
    with opened as model:
        other = workshop.with_network(seed=5)
        installed = data_dir.activate(other.float_file(), other.network.signature, deployment="d-2", version="2")
        installed.write_bytes(b"broken" * 20)
        model.run(rows)
        until(lambda: model.load_error is not None)
        np.testing.assert_allclose(model.run(rows)["scores"], workshop.network.expected(rows), atol=1e-5)
        assert model.version == "1"
        reports = [data_dir.report()]
        while reports[-1].deployment_id != "d-2":
            reports.append(data_dir.report())
        assert reports[-1].errors == {"digest_mismatch": 1}
        data_dir.activate(workshop.int8_file(), workshop.network.signature, deployment="d-3", version="3")
        model.run(rows)
        until(lambda: model.version == "3")
        assert model.load_error is None


def test_pointer_that_goes_away_leaves_the_model_answering(
    opened: LiveModel, data_dir: DataDir, workshop: Workshop
) -> None:
    rows = workshop.network.samples(1)
    with opened as model:
        data_dir.folders.unpoint("tiny")
        for _ in range(3):
            model.run(rows)
            time.sleep(0.05)
        data_dir.activate(workshop.int8_file(), workshop.network.signature, deployment="d-9", version="9")
        model.run(rows)
        until(lambda: model.version == "9")


def test_model_of_two_inputs_wants_names(data_dir: DataDir, workshop: Workshop, pair_signature: ModelSignature) -> None:
    data_dir.activate(workshop.pair_file(), pair_signature, model="pair")
    ones = np.ones((1, 3), np.float32)
    with LiveModel.open("pair", data_dir.layout.root) as model:
        with pytest.raises(InputError, match="by name"):
            model.run(ones)
        assert model.run({"left": ones, "right": ones})["sum"].tolist() == [[2.0] * 3]


def test_run_on_tflite_runtime_follows_too(data_dir: DataDir, workshop: Workshop, tflite_python: Path) -> None:
    data_dir.activate(workshop.int8_file(), workshop.network.signature, runtime=RuntimeName.TFLITE)
    rows = workshop.network.samples(2)
    np.save(workshop.folder / "rows.npy", rows)
    code = (
        "import edge_agent, numpy, sys;"
        "model = edge_agent.load('tiny');"
        "numpy.save(sys.argv[2], model.run(numpy.load(sys.argv[1]))['scores'])"
    )
    environment = {**os.environ, "SHOAL_AGENT_DIR": str(data_dir.layout.root)}
    files = [str(workshop.folder / name) for name in ("rows.npy", "scores.npy")]
    subprocess.run([str(tflite_python), "-c", code, *files], check=True, env=environment, timeout=30)
    np.testing.assert_allclose(np.load(files[1]), workshop.network.expected(rows), atol=0.08)


def test_defer_without_an_agent_runs_the_block_and_tells_that_nobody_has_promised(
    opened: LiveModel, workshop: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    with opened as model, model.defer(60, reason="checkout running") as promised:
        assert not promised
        assert model.run(workshop.network.samples(1))["scores"].shape == (1, 4)
    assert "a swap of model tiny is not deferred: no agent answers" in caplog.text


def test_defer_for_what_can_t_be_is_refused(opened: LiveModel) -> None:
    with (
        opened as model,
        pytest.raises(DeferError, match="up to 86400 s, not for 100000"),
        model.defer(1e5, reason="x"),
    ):
        pass
