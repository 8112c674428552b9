"""What a device that has lost its memory makes of its folders."""

from __future__ import annotations

import pytest

from edge_agent.deployments import events as ev
from edge_agent.deployments.acquire import Rules
from edge_agent.deployments.core import DeviceCore
from edge_agent.deployments.records import Accepted, Snapshot
from edge_agent.deployments.recovery import recovered
from edge_agent.pointer import ActivePointer
from edge_agent.protocol.messages import Desired
from tests.edge_agent.surroundings.toy_variant import ToyVariant, make_variant

ONE, TWO, OTHER = make_variant(), make_variant(version="2"), make_variant(model="other")
INSTALLED = {variant.manifest_sha256: variant.manifest for variant in (ONE, TWO, OTHER)}
SIZES = {variant.manifest_sha256: len(variant.text) for variant in (ONE, TWO, OTHER)}


def pointer_to(variant: ToyVariant, deployment_id: str = "d1", **changes: str) -> ActivePointer:
    manifest = variant.manifest
    return ActivePointer(
        deployment_id=deployment_id,
        model=changes.get("model", manifest.model),
        version=manifest.version,
        variant_id=manifest.variant_id,
        variant_dir=changes.get("variant_dir", f"variants/{variant.manifest_sha256}"),
        model_sha256=manifest.model_file.sha256,
    )


def core_after(pointers: list[ActivePointer]) -> tuple[DeviceCore, list[ev.Action]]:
    snapshot = recovered(Snapshot(), pointers=pointers, installed=INSTALLED, manifest_bytes=SIZES)
    core = DeviceCore(snapshot, installed=INSTALLED, rules=Rules(), chance=lambda: 0.5)
    return core, core.start(ev.Moment(1.0))


def test_recovered_a_snapshot_that_holds_anything_stays_as_it_is() -> None:
    snapshot = Snapshot(accepted=Accepted(epoch=1, generation=1))
    assert recovered(snapshot, pointers=[pointer_to(ONE)], installed=INSTALLED, manifest_bytes=SIZES) is snapshot


def test_recovered_from_pointers_starts_what_was_active_and_keeps_every_variant() -> None:
    _, actions = core_after([pointer_to(TWO), pointer_to(OTHER, "e1")])
    started = {a.deployment_id: a.manifest.version for a in actions if isinstance(a, ev.StartRunner)}
    kept = [a.keep_manifests for a in actions if isinstance(a, ev.CollectGarbage)]
    assert started == {"d1": "2", "e1": "1"}
    assert kept == [frozenset(INSTALLED)]


def test_recovered_told_what_is_wanted_keeps_the_same_deployment_and_collects_the_rest() -> None:
    core, _ = core_after([pointer_to(TWO)])
    desired = Desired(epoch=1, generation=7, deployments=(TWO.wanted("d1"),))
    actions = core.handle(ev.DesiredReceived(desired), ev.Moment(2.0))
    assert [a.keep_manifests for a in actions if isinstance(a, ev.CollectGarbage)] == [{TWO.manifest_sha256}]
    assert not [a for a in actions if isinstance(a, (ev.StopRunner, ev.StartRunner, ev.FetchManifest))]


@pytest.mark.parametrize(
    "pointer",
    [
        pointer_to(ONE, variant_dir="variants/" + "0" * 64),
        pointer_to(ONE, variant_dir=""),
        pointer_to(ONE, model="other"),
    ],
    ids=["not installed", "nowhere", "of another model"],
)
def test_recovered_pointers_that_prove_nothing_are_left_out(pointer: ActivePointer) -> None:
    assert recovered(Snapshot(), pointers=[pointer], installed=INSTALLED, manifest_bytes=SIZES) == Snapshot()
