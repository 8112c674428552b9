"""What a rollout would do, told before it begins: who would get what, how many bytes, and when at the earliest. Pure.

The times are those of a rollout in which every device runs the version at once: start, windows, pace and soak are in
them; how long devices take, their measurements, builds and approvals are not.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from server.rollouts.offering import MINUTE_S, pace_in_wave
from server.rollouts.plan import plan_waves
from server.schemas.rollouts import DeviceForecast, RolloutForecast, WaveForecast
from server.windows import ZONE_LABEL, is_open, next_opening, parse_window, zone_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from server.rollouts.facts import DeviceFact
    from server.schemas.rollouts import RolloutOptions, RolloutRequest


@dataclass(frozen=True, slots=True)
class Offer:
    """What a profile would get: a variant and its bytes, or a refusal in one sentence."""

    variant_id: str | None = None
    manifest_sha256: str = ""
    manifest_bytes: int = 0
    object_bytes: int = 0
    """Of the whole object, as it travels."""
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Fleet:
    """The devices that are meant, and what is known of them."""

    devices: Sequence[DeviceFact]
    offers: Mapping[str, Offer]
    """By profile; one that is missing is still to be built."""
    running: Mapping[str, str] = field(default_factory=dict)
    """By device: the manifest of this model that it has said it runs."""
    deltas: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """By the manifest of what a device runs, and of what it would get: the bytes of the delta."""


def forecast(request: RolloutRequest, fleet: Fleet, *, now: float) -> RolloutForecast:
    """Play the plan through.

    Args:
        request: the rollout that is asked for.
        fleet: whom its selector means.
        now: seconds since 1970.
    """
    devices = {device.device_id: device for device in fleet.devices}
    profiles = {device_id: device.profile for device_id, device in devices.items()}
    cut = plan_waves(profiles, request.waves, seed=request.seed)
    begins = max(now, request.options.start_at)
    clock = _Clock(request.options, begins=max(begins, request.options.activate_at))
    told: list[DeviceForecast] = []
    waves = []
    for wave, device_ids in enumerate(cut):
        members = [_what(devices[device_id], wave, fleet) for device_id in device_ids]
        getting = [member.device_id for member in members if not member.refusal]
        times = clock.open_wave(wave, [devices[device_id] for device_id in getting])
        members = [member.model_copy(update={"earliest_at": times.get(member.device_id)}) for member in members]
        waves.append(_sum(wave, members, request.options))
        told += members
    return RolloutForecast(
        model=request.model,
        version=request.version,
        selector=request.selector,
        download_bytes=sum(wave.download_bytes for wave in waves),
        staged_from=begins if request.options.stage else None,
        beyond=len(devices) - len(told),
        waves=tuple(waves),
        devices=tuple(told),
    )


class _Clock:
    """When devices would be offered it, wave after wave."""

    def __init__(self, options: RolloutOptions, *, begins: float) -> None:
        self._options, self._opens_at = options, begins
        self._window = parse_window(options.window) if options.window else None
        self._openings: dict[str, tuple[float, float]] = {}  # by zone: closed from, open at
        self._latest: deque[float] = deque()  # offers of the last minute

    def open_wave(self, wave: int, devices: Sequence[DeviceFact]) -> dict[str, float]:
        """By device: when it would be offered it. The next wave opens after the last of them, and the soak."""
        pace = pace_in_wave(self._options.pace_per_minute, self._options.pace_growth, wave=wave)
        free = sorted(
            ((self._in_window(device, self._opens_at), device) for device in devices), key=lambda pair: pair[0]
        )
        times = {}
        for at, device in free:
            times[device.device_id] = self._in_window(device, self._paced(at, pace))
            self._latest.append(times[device.device_id])
        if times:
            self._opens_at = max(times.values()) + self._options.soak_s
        return times

    def _paced(self, at: float, pace: int | None) -> float:
        if pace is None:
            return at
        while len(self._latest) > pace:
            self._latest.popleft()
        return at if len(self._latest) < pace else max(at, self._latest[0] + MINUTE_S)

    def _in_window(self, device: DeviceFact, at: float) -> float:
        if self._window is None:
            return at
        zone = zone_of(device.labels.get(ZONE_LABEL), default=self._options.time_zone)
        closed_from, opens_at = self._openings.get(zone, (0.0, 0.0))
        if closed_from <= at < opens_at:
            return opens_at
        if is_open(self._window, zone, now=at):
            return at
        self._openings[zone] = at, next_opening(self._window, zone, now=at)
        return self._openings[zone][1]


def _what(device: DeviceFact, wave: int, fleet: Fleet) -> DeviceForecast:
    offer = fleet.offers.get(device.profile)
    found = DeviceForecast(device_id=device.device_id, profile=device.profile, wave=wave)
    if offer is None:
        return found.model_copy(update={"to_be_built": True})
    if offer.variant_id is None:
        return found.model_copy(update={"refusal": offer.refusal})
    running = fleet.running.get(device.device_id, "")
    already = running == offer.manifest_sha256
    object_bytes = fleet.deltas.get((running, offer.manifest_sha256), offer.object_bytes)
    told = {"already": already, "download_bytes": 0 if already else offer.manifest_bytes + object_bytes}
    return found.model_copy(update={"variant_id": offer.variant_id, **told})


def _sum(wave: int, members: Sequence[DeviceForecast], options: RolloutOptions) -> WaveForecast:
    times = [member.earliest_at for member in members if member.earliest_at is not None]
    return WaveForecast(
        wave=wave,
        devices=len(members),
        no_variant=sum(bool(member.refusal) for member in members),
        to_be_built=sum(member.to_be_built for member in members),
        already=sum(member.already for member in members),
        download_bytes=sum(member.download_bytes for member in members),
        earliest_at=min(times, default=None),
        latest_at=max(times, default=None),
        approval=wave + 1 in options.approve_waves,
        activation=not wave and options.stage and not options.activate_at,
    )
