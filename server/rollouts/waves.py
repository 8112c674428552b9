"""When a wave opens, what the next one waits for, and when a rollout is at its end. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from server.rollouts import asking, gate, offering, staging, stopping, watching
from server.rollouts.facts import NO_VARIANT, WAITING
from server.rollouts.wording import counted, listed
from server.schemas.rollouts import RolloutState
from server.windows import text_of_moment

if TYPE_CHECKING:
    from server.rollouts.facts import Deployment, Facts
    from server.rollouts.ledger import Ledger
    from server.rollouts.offering import Waits


def go_on(facts: Facts, ledger: Ledger, *, now: float) -> None:
    """Offer what is due, and open waves for as long as the one before is settled and nothing holds the next."""
    rollout, standing = facts.rollout, ledger.standings[facts.rollout.rollout_id]
    if offering.is_staging(facts, standing) and not staging.is_time(facts, ledger, now=now):
        if not _staging_is_held(facts, ledger, now=now):
            staging.go_on(facts, ledger, now=now)
        return
    while True:
        waits = offering.offer_due(facts, ledger, now=now)
        if standing.wave >= 0 and not _is_settled(facts, ledger, waits, now=now):
            return
        if standing.wave + 1 >= len(rollout.waves):
            if not _waits_for_lanes(facts, ledger, waits):
                _finish(facts, ledger, now=now)
            return
        upcoming = [row for row in ledger.rows_of(rollout.rollout_id) if row.wave == standing.wave + 1]
        if _is_held(facts, ledger, upcoming, now=now):
            return
        _open_wave(facts, ledger, upcoming, now=now)


def _is_settled(facts: Facts, ledger: Ledger, waits: Waits, *, now: float) -> bool:
    """Whether nobody of the open wave is on the way; tells who is, and notes since when nobody was."""
    rollout, standing = facts.rollout, ledger.standings[facts.rollout.rollout_id]
    rows = ledger.rows_of(rollout.rollout_id)
    counts = gate.count_wave(row for row in rows if row.wave == standing.wave)
    settled = not any(_is_on_the_way(row, ledger) for row in rows)
    settled_at = (standing.settled_at or now) if settled else None
    if settled_at != standing.settled_at:
        standing.settled_at = settled_at
        ledger.changed_standings.add(rollout.rollout_id)
    if not settled and (told := waits.told(facts, wave=standing.wave)):
        sentence = f"{_name(facts, standing.wave)}: {counts.running} of {counts.devices} run it, "
        sentence += f"{counts.in_progress} are on the way; {told}."
        ledger.stand(rollout.rollout_id, RolloutState.RUNNING, sentence)
    return settled


def _is_on_the_way(row: Deployment, ledger: Ledger) -> bool:
    """Whether a wave is not settled because of this device; a lane that is held holds up no other."""
    standing = ledger.standings[row.rollout_id]
    if row.wave > standing.wave:
        return False
    if offering.has_turn_to_come(row, ledger):
        return not standing.lane(row.profile).held
    return gate.bucket(row) == "in_progress" and (row.wave == standing.wave or row.running_at is None)


def _waits_for_lanes(facts: Facts, ledger: Ledger, waits: Waits) -> bool:
    """Whether every wave is open, and only lanes are left that are paused or wait for the compressor."""
    standing = ledger.standings[facts.rollout.rollout_id]
    if sentence := asking.told(facts, standing):
        ledger.stand(
            facts.rollout.rollout_id, RolloutState.RUNNING, f"Every wave is open; {sentence[0].lower()}{sentence[1:]}"
        )
        return True
    if not waits.paused:
        return False
    rollout_id, lane = facts.rollout.rollout_id, min(waits.paused)
    sentence = f"Every wave is open; {waits.told(facts, wave=len(facts.rollout.waves) - 1)}: "
    sentence += f"`rollout resume {rollout_id} --profile {lane}`."
    ledger.stand(rollout_id, RolloutState.RUNNING, sentence)
    return True


def _staging_is_held(facts: Facts, ledger: Ledger, *, now: float) -> bool:
    """Whether even to fetch it must wait: for its start, variants, or deltas."""
    rows = ledger.rows_of(facts.rollout.rollout_id)
    return (
        _is_too_early(facts, ledger, now=now)
        or not _variants_ready(facts, ledger, rows, now=now)
        or _waits_for_deltas(facts, ledger, now=now)
    )


def _is_held(facts: Facts, ledger: Ledger, upcoming: list[Deployment], *, now: float) -> bool:
    """Whether the next wave waits: for its start, variants, deltas, the soak of the wave before, or an operator."""
    return (
        _is_too_early(facts, ledger, now=now)
        or _is_for_held_lanes(facts, ledger, upcoming)
        or not _variants_ready(facts, ledger, upcoming, now=now)
        or _waits_for_deltas(facts, ledger, now=now)
        or _is_soaking(facts, ledger, now=now)
        or watching.is_held(facts, ledger, now=now)
        or _asks_for_approval(facts, ledger, upcoming)
    )


def _is_too_early(facts: Facts, ledger: Ledger, *, now: float) -> bool:
    rollout, standing = facts.rollout, ledger.standings[facts.rollout.rollout_id]
    if standing.wave >= 0 or now >= rollout.options.start_at:
        return False
    ledger.stand(
        rollout.rollout_id, standing.state, f"Starts at {text_of_moment(rollout.options.start_at)}, not before."
    )
    return True


def _is_for_held_lanes(facts: Facts, ledger: Ledger, upcoming: list[Deployment]) -> bool:
    """Whether nobody of the next wave could be offered anything: lanes are paused, or wait for the compressor."""
    rollout_id, standing = facts.rollout.rollout_id, ledger.standings[facts.rollout.rollout_id]
    profiles = sorted({row.profile for row in upcoming if offering.has_turn_to_come(row, ledger)})
    if not profiles or not all(standing.lane(profile).held for profile in profiles):
        return False
    sentence = asking.told(facts, standing)
    if paused := [profile for profile in profiles if standing.lane(profile).paused]:
        lanes = f"{'lane' if len(paused) == 1 else 'lanes'} {listed(paused)}"
        sentence = f"The next wave waits for {lanes}, which {'is' if len(paused) == 1 else 'are'} paused: "
        sentence += f"`rollout resume {rollout_id} --profile {paused[0]}`."
    ledger.stand(rollout_id, standing.state, sentence)
    return True


def _waits_for_deltas(facts: Facts, ledger: Ledger, *, now: float) -> bool:
    rollout, standing = facts.rollout, ledger.standings[facts.rollout.rollout_id]
    if standing.wave >= 0 or facts.deltas_until is None or now >= facts.deltas_until:
        return False
    ledger.stand(rollout.rollout_id, standing.state, "Deltas from what devices run are being made.")
    return True


def _is_soaking(facts: Facts, ledger: Ledger, *, now: float) -> bool:
    rollout, standing = facts.rollout, ledger.standings[facts.rollout.rollout_id]
    soak_s = rollout.options.soak_s
    ends_at = (standing.settled_at or 0.0) + soak_s
    if standing.wave < 0 or not soak_s or now >= ends_at:
        return False
    sentence = f"{_name(facts, standing.wave)} is settled and soaks for {soak_s:g} s: the next opens at "
    ledger.stand(rollout.rollout_id, standing.state, f"{sentence}{text_of_moment(ends_at)}.")
    return True


def _asks_for_approval(facts: Facts, ledger: Ledger, upcoming: list[Deployment]) -> bool:
    """Whether the next wave waits for an operator, who is told once in the decisions and for as long in the state."""
    rollout, standing = facts.rollout, ledger.standings[facts.rollout.rollout_id]
    wave = standing.wave + 1
    if not upcoming or wave + 1 not in rollout.options.approve_waves or standing.approved_wave >= wave:
        return False
    counts = gate.count_wave(row for row in ledger.rows_of(rollout.rollout_id) if row.wave < wave)
    sentence = f"{_name(facts, wave)} with {counted(len(upcoming), 'device', 'devices')} waits for approval"
    sentence += f" ({counts.running} run it, {counts.failed + counts.refused} failed)" if wave else ""
    sentence += f": `rollout approve {rollout.rollout_id}`."
    ledger.stand(rollout.rollout_id, standing.state, sentence)
    if standing.approval_wave != wave:
        standing.approval_wave = wave
        ledger.changed_standings.add(rollout.rollout_id)
        numbers = {f"before_{name}": value for name, value in counts.numbers().items()}
        ledger.decide(rollout, "approval_asked", sentence, wave=wave, devices=len(upcoming), **numbers)
    return True


def _name(facts: Facts, wave: int) -> str:
    return f"Wave {wave + 1} of {len(facts.rollout.waves)}"


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


def _open_wave(facts: Facts, ledger: Ledger, upcoming: list[Deployment], *, now: float) -> None:
    rollout = facts.rollout
    standing = ledger.standings[rollout.rollout_id]
    opened = [row for row in ledger.rows_of(rollout.rollout_id) if row.wave <= standing.wave]
    before, silent = gate.count_wave(opened), len(watching.unheard(opened, facts, now=now))
    watching.tell_lanes(facts, ledger)
    standing.wave += 1
    standing.settled_at = None
    ledger.changed_standings.add(rollout.rollout_id)
    for row in upcoming:
        if row.state == WAITING and facts.choices[row.profile].variant is None:
            ledger.set_state(row, NO_VARIANT, reason="no_variant", detail=facts.choices[row.profile].refusal)
    if not upcoming:
        return  # it reaches nobody new: nothing was decided
    counts = gate.count_wave(upcoming)
    sentence = f"{_name(facts, standing.wave)} opens for {counted(counts.devices, 'device', 'devices')}"
    sentence += f", {counts.no_variant} of them without a variant" if counts.no_variant else ""
    if standing.wave:
        sentence += (
            f": before it {before.running} run{_of_them_silent(silent, facts)}, {before.failed} failed, "
            f"{before.timed_out} timed out, {before.no_variant} have no variant"
        )
    ledger.stand(rollout.rollout_id, RolloutState.RUNNING, sentence + ".")
    numbers = {f"before_{name}": value for name, value in before.numbers().items()}
    numbers["before_silent"] = silent
    ledger.decide(rollout, "wave_opened", sentence + ".", wave=standing.wave, devices=counts.devices, **numbers)


def _of_them_silent(silent: int, facts: Facts) -> str:
    """In brackets: of how many nobody knows whether they still run it; empty where all are heard."""
    return f" ({silent} of them not heard for more than {watching.silence_s(facts):g} s)" if silent else ""


def _finish(facts: Facts, ledger: Ledger, *, now: float) -> None:
    rollout = facts.rollout
    rows = ledger.rows_of(rollout.rollout_id)
    counts, silent = gate.count_wave(rows), len(watching.unheard(rows, facts, now=now))
    sentence = (
        f"Finished: {counts.running} of {counts.devices} devices run {rollout.model}@{rollout.version}"
        f"{_of_them_silent(silent, facts)}, {counts.failed + counts.refused} failed, {counts.timed_out} timed out, "
        f"{counts.no_variant} have no variant"
        + (f", {counts.left} were cancelled, removed or taken over by a newer rollout" if counts.left else "")
    )
    for row in ledger.rows_of(rollout.rollout_id):
        if ledger.is_staged(row):  # it failed there before it was activated: its files are needed no more
            ledger.restore(row, now=now)
    lanes = ledger.standings[rollout.rollout_id].lanes
    stops = asking.without_hope(stopping.stopped_lanes(facts, ledger), lanes, found=True)
    stopped = sorted({lane.profile for lane in stops})
    sentence += f"; stopped lanes: {', '.join(stopped)}." if stopped else "."
    ledger.stand(rollout.rollout_id, RolloutState.FINISHED, sentence)
    ledger.decide(rollout, "finished", sentence, silent=silent, **counts.numbers())
