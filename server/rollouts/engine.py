"""One tick of one rollout: from facts and the ledger to what changes. Pure; the clock is an argument.

A tick may be repeated or lost without harm: it decides from what is written, and what it decides is written whole.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from server.rollouts import commands, gate, going_back, stopping, watching
from server.rollouts.facts import (
    CANCELLED,
    CLOSED_STATES,
    FAILED_STATES,
    NO_VARIANT,
    RUNNING,
    WAITING,
    ChoiceFact,
    Deployment,
    Facts,
    Standing,
    VariantFact,
    Why,
)
from server.rollouts.plan import cut_waves, in_plan_order, order_devices, spread_lanes
from server.rollouts.verify import judge, proven_on_device, retrying_since
from server.rollouts.wording import counted
from server.schemas.rollouts import RolloutState

if TYPE_CHECKING:
    from server.rollouts.ledger import Ledger


def advance(facts: Facts, ledger: Ledger, *, epoch: int, now: float) -> None:
    """Take every step that is due: plan, obey, look, stop, offer, open, finish."""
    rollout_id = facts.rollout.rollout_id
    if rollout_id not in ledger.standings:
        make_plan(facts, ledger)
    _drop_removed(facts, ledger)
    said = stopping.stopped_lanes(facts, ledger)
    observe(facts, ledger, epoch=epoch, now=now)
    commands.obey(facts, ledger, now=now)
    state = ledger.standings[rollout_id].state
    active = state in {RolloutState.RUNNING, RolloutState.PAUSED}
    if active or state is RolloutState.FINISHED:
        watching.look(facts, ledger, now=now)
        going_back.note_returned(facts, ledger, epoch=epoch)
    if active and stopping.stop_what_is_bad(facts, ledger, said=said, now=now):
        return
    if state in {RolloutState.STOPPED, RolloutState.ABORTED}:
        commands.restore_failed(ledger.rows_of(rollout_id), ledger, now=now)
    if state in {RolloutState.ROLLING_BACK, RolloutState.ROLLED_BACK}:
        going_back.follow(facts, ledger, epoch=epoch, now=now)
    if state not in {RolloutState.PREPARING, RolloutState.RUNNING}:
        return
    _go_on(facts, ledger, now=now)


def deployment_id_of(rollout_id: str, device_id: str) -> str:
    """The name of a device's attempt: the same whoever asks, and however often."""
    return "dep-" + hashlib.sha256(f"{rollout_id}:{device_id}".encode()).hexdigest()[:24]


def make_plan(facts: Facts, ledger: Ledger) -> None:
    """Write the plan down, once: a device that joins later is in no wave of this rollout."""
    rollout = facts.rollout
    ledger.standings[rollout.rollout_id] = Standing(reason="Variants are being built.")
    ledger.changed_standings.add(rollout.rollout_id)
    devices = {device.device_id: device for device in facts.targets if not device.removed}
    ordered = order_devices(devices, seed=rollout.seed)
    profiles = {device_id: device.profile for device_id, device in devices.items()}
    cut = cut_waves(spread_lanes(ordered, profiles), rollout.waves)
    for wave, device_ids in enumerate(cut):
        for device_id in device_ids:
            row = Deployment(
                deployment_id=deployment_id_of(rollout.rollout_id, device_id),
                rollout_id=rollout.rollout_id,
                device_id=device_id,
                wave=wave,
                profile=devices[device_id].profile,
                model=rollout.model,
                version=rollout.version,
            )
            ledger.add(row)
    sizes = ", ".join(str(len(device_ids)) for device_ids in cut)
    matching = counted(len(ordered), "device matches", "devices match")
    sentence = f"{matching}; the waves hold {sizes}."
    ledger.decide(rollout, "planned", sentence, devices=len(ordered), waves=len(cut))


def observe(facts: Facts, ledger: Ledger, *, epoch: int, now: float) -> None:
    """Write down where each deployment stands, by what its device said last."""
    for row in ledger.rows_of(facts.rollout.rollout_id):
        if not ledger.is_wanted(row):
            continue
        heard = facts.heard.get(row.device_id)
        variant = _variant_of(facts, row)
        found = judge(
            row,
            heard,
            variant,
            facts.rollout.options,
            status_interval_s=facts.status_interval_s,
            epoch=epoch,
            now=now,
        )
        since = retrying_since(row, heard.deployments.get(row.deployment_id) if heard else None, now=now)
        if since != row.retrying_since:
            row.retrying_since = since
            ledger.changed_deployments.add(row.deployment_id)
        ledger.set_state(row, found.state, reason=found.reason, detail=found.detail)
        if found.state == RUNNING and row.running_at is None:
            row.running_at = now
        if row.canary and proven_on_device(row, heard):
            _clear_canaries(ledger, row)
            sentence = f"{row.device_id} passed the self-test: {row.variant_id} may go on in lane {row.profile}."
            ledger.decide(facts.rollout, "lane_proven", sentence, wave=row.wave, profile=row.profile)


def _clear_canaries(ledger: Ledger, proven: Deployment) -> None:
    """Once a lane is proven a failure in it is one device's failure, also of one that went first and was silent."""
    for row in ledger.rows_of(proven.rollout_id):
        if row.canary and (row.profile, row.variant_id) == (proven.profile, proven.variant_id):
            row.canary = False
            ledger.changed_deployments.add(row.deployment_id)


def _drop_removed(facts: Facts, ledger: Ledger) -> None:
    for row in ledger.rows_of(facts.rollout.rollout_id):
        if row.device_id in facts.removed and row.state not in CLOSED_STATES and not ledger.is_wanted(row):
            ledger.set_state(row, CANCELLED, reason=Why.REMOVED)


def _go_on(facts: Facts, ledger: Ledger, *, now: float) -> None:
    """Offer what is due, and open waves for as long as the one before is settled."""
    rollout, standing = facts.rollout, ledger.standings[facts.rollout.rollout_id]
    while True:
        _offer_lanes(facts, ledger, now=now)
        rows = ledger.rows_of(rollout.rollout_id)
        if standing.wave >= 0:
            counts = gate.count_wave(row for row in rows if row.wave == standing.wave)
            if not counts.settled:
                return
            if standing.wave + 1 < len(rollout.waves) and watching.is_held(facts, ledger, now=now):
                return
        upcoming = [row for row in rows if row.wave == standing.wave + 1]
        if standing.wave + 1 >= len(rollout.waves):
            _finish(facts, ledger)
            return
        if not _variants_ready(facts, ledger, upcoming, now=now):
            return
        _open_wave(facts, ledger, upcoming)


def _variants_ready(facts: Facts, ledger: Ledger, upcoming: list[Deployment], *, now: float) -> bool:
    rollout = facts.rollout
    missing = sorted({row.profile for row in upcoming if row.state == WAITING} - set(facts.choices))
    if not missing:
        return True
    failed = next((profile for profile in missing if profile in facts.build_failures), None)
    if failed is not None:
        sentence = (
            f"Stopped: no variant of {rollout.model}@{rollout.version} for {failed}: {facts.build_failures[failed]}"
        )
        stopping.stop_rollout(facts, ledger, sentence, now=now)
        return False
    state = ledger.standings[rollout.rollout_id].state
    ledger.stand(rollout.rollout_id, state, f"Variants for {', '.join(missing)} are being built.")
    return False


def _open_wave(facts: Facts, ledger: Ledger, upcoming: list[Deployment]) -> None:
    rollout = facts.rollout
    standing = ledger.standings[rollout.rollout_id]
    before = gate.count_wave(row for row in ledger.rows_of(rollout.rollout_id) if row.wave <= standing.wave)
    watching.tell_lanes(facts, ledger)
    standing.wave += 1
    ledger.changed_standings.add(rollout.rollout_id)
    for row in upcoming:
        if row.state == WAITING and facts.choices[row.profile].variant is None:
            ledger.set_state(row, NO_VARIANT, reason="no_variant", detail=facts.choices[row.profile].refusal)
    if not upcoming:
        return  # it reaches nobody new: nothing was decided
    counts = gate.count_wave(upcoming)
    sentence = (
        f"Wave {standing.wave + 1} of {len(rollout.waves)} opens for {counted(counts.devices, 'device', 'devices')}"
    )
    sentence += f", {counts.no_variant} of them without a variant" if counts.no_variant else ""
    if standing.wave:
        sentence += (
            f": before it {before.running} run, {before.failed} failed, {before.timed_out} timed out, "
            f"{before.no_variant} have no variant"
        )
    ledger.stand(rollout.rollout_id, RolloutState.RUNNING, sentence + ".")
    numbers = {f"before_{name}": value for name, value in before.numbers().items()}
    ledger.decide(rollout, "wave_opened", sentence + ".", wave=standing.wave, devices=counts.devices, **numbers)


def _finish(facts: Facts, ledger: Ledger) -> None:
    rollout = facts.rollout
    counts = gate.count_wave(ledger.rows_of(rollout.rollout_id))
    sentence = (
        f"Finished: {counts.running} of {counts.devices} devices run {rollout.model}@{rollout.version}, "
        f"{counts.failed + counts.refused} failed, {counts.timed_out} timed out, {counts.no_variant} have no variant"
        + (f", {counts.left} were cancelled, removed or taken over by a newer rollout" if counts.left else "")
    )
    stopped = sorted({lane.profile for lane in stopping.stopped_lanes(facts, ledger)})
    sentence += f"; stopped lanes: {', '.join(stopped)}." if stopped else "."
    ledger.stand(rollout.rollout_id, RolloutState.FINISHED, sentence)
    ledger.decide(rollout, "finished", sentence, **counts.numbers())


def _offer_lanes(facts: Facts, ledger: Ledger, *, now: float) -> None:
    wave = ledger.standings[facts.rollout.rollout_id].wave
    rows = ledger.rows_of(facts.rollout.rollout_id)
    lanes: dict[tuple[int, str], list[Deployment]] = {}
    for row in in_plan_order(rows, seed=facts.rollout.seed):
        if row.wave <= wave:
            lanes.setdefault((row.wave, row.profile), []).append(row)
    for (lane_wave, profile), lane in sorted(lanes.items()):
        variant = facts.choices.get(profile, ChoiceFact()).variant
        if variant is None or not any(row.state == WAITING for row in lane):
            continue
        proven = any(_has_proven(facts, row, variant) for row in rows)
        # where all of the first wave were silent nobody knows more than before it
        first = gate.vanguard(sum(row.profile == profile for row in rows)) if lane_wave else None
        turn, canary = gate.lane_turn(lane, unproven=variant.unproven, proven=proven, first=first)
        for row in turn:
            if ledger.offer(row, variant, now=now):
                row.canary = canary
                if canary:
                    sentence = f"{variant.variant_id} is unproven on {profile}: {row.device_id} goes first in its lane."
                    ledger.decide(facts.rollout, "lane_first", sentence, wave=row.wave, profile=profile)


def _has_proven(facts: Facts, row: Deployment, variant: VariantFact) -> bool:
    if row.variant_id != variant.variant_id or row.state in FAILED_STATES:
        return False
    return row.running_at is not None or proven_on_device(row, facts.heard.get(row.device_id))


def _variant_of(facts: Facts, row: Deployment) -> VariantFact | None:
    # not by today's choice: what was offered may have been chosen otherwise since
    return facts.variants.get((row.profile, row.variant_id or ""))
