"""The core fetches a delta where it has the base and the memory, and the whole object where the delta does not do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edge_agent.deployments import events as ev
from edge_agent.protocol.messages import Desired, DesiredDeployment
from edge_agent.protocol.states import Reason
from tests.edge_agent.deployments.test_core import Bench
from tests.edge_agent.surroundings.toy_delta import delta_between
from tests.edge_agent.surroundings.toy_variant import make_variant

if TYPE_CHECKING:
    from edge_agent.protocol.messages import DeploymentStatus

FILLER_BYTES = 100_000
ONE = make_variant("net", "1", filler_bytes=FILLER_BYTES)
TWO = make_variant("net", "2", filler_bytes=FILLER_BYTES, filler_of=ONE)
OTHER = make_variant("net", "0", filler_bytes=FILLER_BYTES)
DELTA = delta_between(ONE, TWO)[1]


def offered(name: str = "d2") -> DesiredDeployment:
    return TWO.wanted(name).model_copy(update={"deltas": (DELTA,)})


def begun(*, before: tuple[str, object] | None = ("d1", ONE), memory_bytes: int | None = None) -> Bench:
    """A device that has version 1, and the manifest of version 2, which is offered with a delta."""
    bench = Bench()
    bench.memory_bytes = memory_bytes
    if before is not None:
        bench.run_through(1, "d1", before[1])  # type: ignore[arg-type]
    bench.tell(ev.DesiredReceived(Desired(epoch=1, generation=2, deployments=(offered(),))))
    bench.give_manifest(TWO)
    return bench


def fetching(bench: Bench) -> list[str]:
    return [action.object.sha256 for action in bench.last if isinstance(action, ev.StartTransfer)]


def unpacking(bench: Bench) -> list[ev.Unpack]:
    return [action for action in bench.last if isinstance(action, ev.Unpack)]


def told(bench: Bench) -> DeploymentStatus:
    return next(status for status in bench.core.statuses() if status.deployment_id == "d2")


def test_core_with_the_base_fetches_the_delta_and_applies_it_to_the_base() -> None:
    bench = begun()
    assert fetching(bench) == [DELTA.object.sha256]
    assert told(bench).bytes_total == DELTA.object.size_bytes
    bench.tell(ev.TransferDone(DELTA.object.sha256, 500))
    (unpack,) = unpacking(bench)
    assert (unpack.delta, unpack.base_sha256) == (DELTA, ONE.manifest_sha256)
    bench.install(TWO)
    bench.prove("d2")
    status = told(bench)
    assert (status.state, status.fetched, status.bytes_received) == ("active", "delta", 500)


@pytest.mark.parametrize("before", [None, ("d1", OTHER)], ids=["nothing", "another"])
def test_core_without_the_base_fetches_the_whole_object(before: tuple[str, object] | None) -> None:
    bench = begun(before=before)
    assert fetching(bench) == [TWO.object_sha256]
    assert told(bench).fetched == "whole"


def test_core_without_the_memory_for_the_delta_fetches_the_whole_object() -> None:
    enough = DELTA.memory_bytes + (16 << 20)
    assert fetching(begun(memory_bytes=enough)) == [DELTA.object.sha256]
    assert fetching(begun(memory_bytes=enough - 1)) == [TWO.object_sha256]


@pytest.mark.parametrize("reason", [Reason.OBJECT_NOT_FOUND, Reason.OBJECT_GONE, Reason.TRANSFER_FAILED])
def test_core_whose_delta_can_not_be_had_fetches_the_whole_object_and_says_so(reason: Reason) -> None:
    bench = begun()
    bench.tell(ev.TransferFailed(DELTA.object.sha256, reason, "it is gone", 300, again=False))
    assert fetching(bench) == [TWO.object_sha256]
    status = told(bench)
    assert (status.state, status.fetched, status.bytes_received) == ("downloading", "whole_after_delta", 300)
    assert "the delta did not do: it is gone" in status.detail


def test_core_whose_delta_becomes_something_else_fetches_the_whole_object_once() -> None:
    bench = begun()
    bench.tell(ev.TransferDone(DELTA.object.sha256))
    bench.tell(ev.UnpackFailed(TWO.manifest_sha256, Reason.DIGEST_MISMATCH, "the base is damaged"))
    assert fetching(bench) == [TWO.object_sha256]
    bench.tell(ev.TransferDone(TWO.object_sha256))
    (unpack,) = unpacking(bench)
    assert unpack.delta is None
    bench.tell(ev.UnpackFailed(TWO.manifest_sha256, Reason.DIGEST_MISMATCH, "the whole is wrong, too"))
    assert (bench.state("d2"), told(bench).fetched) == ("rejected", "whole_after_delta")
    assert bench.serving() == {"d1"}


def test_core_with_a_full_disk_tries_the_delta_again_later() -> None:
    bench = begun()
    bench.tell(ev.TransferFailed(DELTA.object.sha256, Reason.DISK_FULL, "no room"))
    assert bench.state("d2") == "failed"
    bench.tick(3600)
    assert fetching(bench) == [DELTA.object.sha256]


def test_core_whose_base_rotted_during_the_transfer_fetches_the_whole_object() -> None:
    bench = begun()
    bench.core._acquisition.installed.pop(ONE.manifest_sha256)
    bench.tell(ev.TransferDone(DELTA.object.sha256))
    assert not unpacking(bench)
    assert fetching(bench) == [TWO.object_sha256]


def test_core_restarted_in_the_middle_of_a_delta_goes_on_with_it() -> None:
    bench = begun()
    bench.restart()
    bench.give_manifest(TWO)
    assert fetching(bench) == [DELTA.object.sha256]
    assert told(bench).fetched == "delta"


def test_core_restarted_after_a_delta_did_not_do_goes_on_with_the_whole_object() -> None:
    bench = begun()
    bench.tell(ev.TransferFailed(DELTA.object.sha256, Reason.OBJECT_GONE, "", again=False))
    bench.restart()
    bench.give_manifest(TWO)
    assert fetching(bench) == [TWO.object_sha256]
    assert told(bench).fetched == "whole_after_delta"


def test_core_keeps_the_delta_and_its_base_while_it_is_fetched() -> None:
    bench = begun()
    bench.tell(ev.DesiredReceived(Desired(epoch=1, generation=3, deployments=(offered(),))))
    (collect,) = [action for action in bench.last if isinstance(action, ev.CollectGarbage)]
    assert collect.keep_objects == frozenset({DELTA.object.sha256})
    assert collect.keep_manifests == frozenset({ONE.manifest_sha256, TWO.manifest_sha256})


def test_core_told_to_leave_a_delta_stops_fetching_it() -> None:
    bench = begun()
    bench.tell(ev.DesiredReceived(Desired(epoch=1, generation=3, deployments=(ONE.wanted("d1"),))))
    assert [a.object_sha256 for a in bench.last if isinstance(a, ev.CancelTransfer)] == [DELTA.object.sha256]
