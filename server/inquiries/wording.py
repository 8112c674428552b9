"""What is said of a device that does not answer. Pure."""

from __future__ import annotations

_UNITS = ((86_400.0, "d"), (3600.0, "h"), (60.0, "min"))


def silence(device_id: str, presence: str, last_seen_at: float | None, *, now: float, waited_s: float) -> str:
    """One sentence about a device that has not answered in time, and what to do.

    >>> silence("d1", "offline", 100.0, now=7300.0, waited_s=30.0)
    'Device d1 is offline, last heard 2 h ago: nothing came within 30 s. With --wait 1h it is asked when it connects.'
    """
    waited = f"nothing came within {span(waited_s)}"
    if presence == "never":
        return f"Device {device_id} has joined and was never heard: {waited}. Is its agent started?"
    heard = "" if last_seen_at is None else f", last heard {span(max(0.0, now - last_seen_at))} ago"
    if presence == "online":
        advice = "An agent older than the registry does not know this question; a slow one may need a longer --wait."
        return f"Device {device_id} is online{heard}: {waited}. {advice}"
    state = "offline" if presence == "offline" else "silent"
    return f"Device {device_id} is {state}{heard}: {waited}. With --wait 1h it is asked when it connects."


def span(seconds: float) -> str:
    """A duration for people, in its largest unit."""
    for unit_s, name in _UNITS:
        if seconds >= unit_s:
            return f"{seconds / unit_s:.0f} {name}"
    return f"{seconds:.0f} s"
