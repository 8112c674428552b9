"""The plan of a rollout: who comes first, and where a wave ends. Pure: the same seed gives the same plan for ever."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections import Counter
from typing import TYPE_CHECKING

from server.errors import InvalidError
from server.schemas.rollouts import MAX_WAVES, Wave

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from server.rollouts.facts import Deployment

MAX_COUNT = 1_000_000
_PERCENT = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)\s*%", re.ASCII)
_COUNT = re.compile(r"\d{1,9}", re.ASCII)


class WavesError(InvalidError):
    """A text that is no plan of waves."""

    code = "bad_waves"


def parse_waves(text: str) -> tuple[Wave, ...]:
    """Read `10%,100%` or `1,5,100%`: each wave is the share or number of devices reached once it is open.

    Raises:
        WavesError: one sentence that names the part that does not fit.
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > MAX_WAVES:
        raise WavesError(f"A rollout has at most {MAX_WAVES} waves, here are {len(parts)}.")
    waves = tuple(_parse_wave(part) for part in parts)
    check_growing(waves)
    return waves


def check_growing(waves: Sequence[Wave]) -> None:
    """Each wave reaches more devices than the one before; between a share and a number only the fleet can tell.

    Raises:
        WavesError: names the two waves that do not grow.
    """
    for before, after in itertools.pairwise(waves):
        same_kind = (before.percent is None) == (after.percent is None)
        if same_kind and (after.percent or after.count or 0) <= (before.percent or before.count or 0):
            raise WavesError(
                f"Waves are cumulative and must grow, but {spell(after)} follows {spell(before)}; "
                "write for example 10%,50%,100%."
            )


def spell(wave: Wave) -> str:
    """A wave as people write it."""
    return f"{wave.percent:g}%" if wave.percent is not None else str(wave.count)


def order_devices(device_ids: Iterable[str], *, seed: int) -> list[str]:
    """Every device once, in an order that depends on the seed and the ids alone, not on who else is there."""
    return sorted(set(device_ids), key=lambda device_id: (rank(device_id, seed=seed), device_id))


def spread_lanes(ordered: Sequence[str], profiles: Mapping[str, str]) -> list[str]:
    """The same devices so that every share of them holds about the same share of each profile's, to a device.

    A lane of a fifth of the fleet then has two or three of the first ten devices, never seven: what is bad for one
    profile reaches no more of its devices than the plan says, and every wave can be measured in every lane.
    """
    sizes = Counter(profiles[device_id] for device_id in ordered)
    seen: Counter[str] = Counter()
    places: dict[str, float] = {}
    for device_id in ordered:
        profile = profiles[device_id]
        places[device_id] = (seen[profile] + 0.5) / sizes[profile]
        seen[profile] += 1
    return sorted(ordered, key=places.__getitem__)  # stable: where places are equal the seed's order holds


def plan_waves(profiles: Mapping[str, str], waves: Sequence[Wave], *, seed: int) -> list[list[str]]:
    """Who is in which wave.

    Args:
        profiles: of each device that is meant, by its id.
        waves: cumulative.
        seed: decides who comes first.
    """
    return cut_waves(spread_lanes(order_devices(profiles, seed=seed), profiles), waves)


def deployment_id_of(rollout_id: str, device_id: str, *, attempt: int = 0) -> str:
    """The name of a device's attempt: the same whoever asks, and however often."""
    again = f":{attempt}" if attempt else ""
    return "dep-" + hashlib.sha256(f"{rollout_id}:{device_id}{again}".encode()).hexdigest()[:24]


def rank(device_id: str, *, seed: int) -> bytes:
    """The place of a device in the order of a seed."""
    return hashlib.sha256(f"{seed}:{device_id}".encode()).digest()


def in_plan_order(rows: Iterable[Deployment], *, seed: int) -> list[Deployment]:
    """Deployments wave by wave, in each as the seed orders the devices."""
    return sorted(rows, key=lambda row: (row.wave, rank(row.device_id, seed=seed), row.device_id))


def cut_waves(ordered: Sequence[str], waves: Sequence[Wave]) -> list[list[str]]:
    """The devices of each wave. A wave that reaches nobody new is empty; devices beyond the last wave are in none.

    A share is rounded up, so that every share of a fleet reaches at least one device.
    """
    cut: list[list[str]] = []
    reached = 0
    for wave in waves:
        end = max(reached, min(len(ordered), _reach(wave, len(ordered))))
        cut.append(list(ordered[reached:end]))
        reached = end
    return cut


def _reach(wave: Wave, devices: int) -> int:
    if wave.count is not None:
        return wave.count
    # rounded first: 7 % of 100 is 7.000000000000001 in binary fractions, and must not become 8
    return math.ceil(round(devices * (wave.percent or 0.0) / 100.0, 6))


def _parse_wave(part: str) -> Wave:
    if match := _PERCENT.fullmatch(part):
        percent = float(match[1])
        if 0 < percent <= 100:  # noqa: PLR2004  a share of all
            return Wave(percent=percent)
        raise WavesError(f"Wave {part[:40]!r} must be more than 0% and at most 100%.")
    if _COUNT.fullmatch(part):
        if 0 < int(part) <= MAX_COUNT:
            return Wave(count=int(part))
        raise WavesError(f"Wave {part!r} must be from 1 to {MAX_COUNT} devices.")
    raise WavesError(f"Wave {part[:40]!r} is neither a share such as 10% nor a number of devices such as 5.")
