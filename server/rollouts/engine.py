"""One tick of one rollout: from facts and the ledger to what changes. Pure; the clock is an argument.

A tick may be repeated or lost without harm: it decides from what is written, and what it decides is written whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from server.rollouts import asking, commands, going_back, retrying, shadows, stopping, watching, waves
from server.rollouts.facts import (
    CANCELLED,
    CLOSED_STATES,
    FAILED_STATES,
    NO_VARIANT,
    RETRYING,
    RUNNING,
    TIMED_OUT,
    Deployment,
    Facts,
    Standing,
    VariantFact,
    Why,
)
from server.rollouts.plan import deployment_id_of, plan_waves
from server.rollouts.verify import judge, judge_ready, proven_on_device, retrying_since
from server.rollouts.wording import counted
from server.schemas.rollouts import RolloutState

if TYPE_CHECKING:
    from server.rollouts.facts import DeviceFact, Heard
    from server.rollouts.ledger import Ledger
    from server.rollouts.verify import Judgement


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
    active = state in {RolloutState.STAGING, RolloutState.RUNNING, RolloutState.PAUSED}
    if active or state is RolloutState.FINISHED:
        watching.look(facts, ledger, now=now)
    asking.ask_after_the_end(facts, ledger, said=said, now=now)
    stopping.stop_after_the_end(facts, ledger, said=said, now=now)
    if state is not RolloutState.PREPARING:
        going_back.note_returned(facts, ledger, epoch=epoch)
    if active:
        retrying.try_failed_again(facts, ledger, now=now)
        gave_up = asking.follow(facts, ledger, now=now)
        said = {lane: stop for lane, stop in said.items() if lane not in gave_up}
    if active and stopping.stop_what_is_bad(facts, ledger, said=said, now=now):
        return
    if state in {RolloutState.STOPPED, RolloutState.ABORTED}:
        going_back.restore_failed(ledger.rows_of(rollout_id), ledger, now=now)
    if state in {RolloutState.ROLLING_BACK, RolloutState.ROLLED_BACK}:
        going_back.follow(facts, ledger, epoch=epoch, now=now)
    if state not in {RolloutState.PREPARING, RolloutState.STAGING, RolloutState.RUNNING}:
        return
    if facts.rollout.options.join_later:
        join_later(facts, ledger)
    waves.go_on(facts, ledger, now=now)


def make_plan(facts: Facts, ledger: Ledger) -> None:
    """Write the plan down, once: a device that joins later is in no wave of this rollout."""
    rollout = facts.rollout
    ledger.standings[rollout.rollout_id] = Standing(reason="Variants are being built.")
    ledger.changed_standings.add(rollout.rollout_id)
    devices = {device.device_id: device for device in facts.targets if not device.removed}
    profiles = {device_id: device.profile for device_id, device in devices.items()}
    cut = plan_waves(profiles, rollout.waves, seed=rollout.seed)
    for wave, device_ids in enumerate(cut):
        for device_id in device_ids:
            ledger.add(_planned(facts, devices[device_id], wave))
    sizes = ", ".join(str(len(device_ids)) for device_ids in cut)
    matching = counted(len(devices), "device matches", "devices match")
    sentence = f"{matching}; the waves hold {sizes}."
    ledger.decide(rollout, "planned", sentence, devices=len(devices), waves=len(cut))


def join_later(facts: Facts, ledger: Ledger) -> None:
    """Add the devices that the selector means by now to the wave that is open, in lanes that go on.

    One whose profile has no answer yet joins once there is one.
    """
    rollout, standing = facts.rollout, ledger.standings[facts.rollout.rollout_id]
    known = {row.device_id for row in ledger.rows_of(rollout.rollout_id)}
    stops = asking.without_hope(stopping.stopped_lanes(facts, ledger), standing.lanes, found=True)
    stopped = {lane.profile for lane in stops}
    joining = [
        device
        for device in facts.targets
        if device.device_id not in known
        and not device.removed
        and device.profile in facts.choices
        and device.profile not in stopped
        and not standing.lane(device.profile).ended
    ]
    wave = max(0, standing.wave)
    for device in joining:
        row, choice = _planned(facts, device, wave), facts.choices[device.profile]
        ledger.add(row)
        if standing.wave >= 0 and choice.variant is None:
            ledger.set_state(row, NO_VARIANT, reason="no_variant", detail=choice.refusal)
    if joining:
        sentence = f"{counted(len(joining), 'device joins', 'devices join')} later, in wave {wave + 1}."
        ledger.decide(rollout, "joined", sentence, wave=wave, devices=len(joining))


def _planned(facts: Facts, device: DeviceFact, wave: int) -> Deployment:
    rollout = facts.rollout
    return Deployment(
        deployment_id=deployment_id_of(rollout.rollout_id, device.device_id),
        rollout_id=rollout.rollout_id,
        device_id=device.device_id,
        wave=wave,
        profile=device.profile,
        model=rollout.model,
        version=rollout.version,
    )


def observe(facts: Facts, ledger: Ledger, *, epoch: int, now: float) -> None:
    """Write down where each deployment stands, by what its device said last."""
    for row in ledger.rows_of(facts.rollout.rollout_id):
        if not ledger.is_wanted(row):
            continue
        heard = facts.heard.get(row.device_id)
        found = _judge(row, heard, facts, ready=ledger.is_staged(row), epoch=epoch, now=now)
        status = heard.deployments.get(row.deployment_id) if heard else None
        since = retrying_since(row, status, now=now)
        if since != row.retrying_since:
            row.retrying_since = since
            ledger.changed_deployments.add(row.deployment_id)
        ledger.set_state(row, found.state, reason=found.reason, detail=found.detail)
        if row.takes_place and (found.state in {RETRYING, TIMED_OUT} or found.state in FAILED_STATES):
            row.takes_place = False
            ledger.changed_deployments.add(row.deployment_id)
        if found.state == RUNNING and row.running_at is None:
            row.running_at = now
        shadows.note(row, status, ledger)
        if row.canary and proven_on_device(row, heard):
            _clear_canaries(ledger, row)
            sentence = f"{row.device_id} passed the self-test: {row.variant_id} may go on in lane {row.profile}."
            ledger.decide(facts.rollout, "lane_proven", sentence, wave=row.wave, profile=row.profile)


def _judge(row: Deployment, heard: Heard | None, facts: Facts, *, ready: bool, epoch: int, now: float) -> Judgement:
    variant, options, listening_since = _variant_of(facts, row), facts.rollout.options, facts.listening_since
    if ready:
        return judge_ready(row, heard, variant, options, listening_since=listening_since, now=now)
    interval_s = facts.status_interval_s
    return judge(
        row,
        heard,
        variant,
        options,
        status_interval_s=interval_s,
        listening_since=listening_since,
        epoch=epoch,
        now=now,
    )


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


def _variant_of(facts: Facts, row: Deployment) -> VariantFact | None:
    # not by today's choice: what was offered may have been chosen otherwise since
    return facts.variants.get((row.profile, row.variant_id or ""))
