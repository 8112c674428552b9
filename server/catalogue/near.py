"""From a name that is not there to what its writer may have meant. Pure."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_SHOWN: Final = 5
_CUTOFF: Final = 0.6  # difflib's own: 1.0 is equal, and two names that share nothing have 0.0


def near(name: str, known: Iterable[str]) -> list[str]:
    """Names that differ from this one by a slip of the hand, the nearest first; at most `MAX_SHOWN`."""
    spelt = {candidate.casefold(): candidate for candidate in sorted(known)}
    if not (wanted := name.casefold()):
        return []
    found = difflib.get_close_matches(wanted, spelt, n=MAX_SHOWN, cutoff=_CUTOFF)
    begins = [folded for folded in spelt if folded.startswith(wanted) and folded not in found]
    return [spelt[folded] for folded in (*found, *begins)][:MAX_SHOWN]


def no_model(model: str, known: Iterable[str]) -> str:
    """The sentence for a model that was never pushed."""
    names = sorted(known)
    start = f"There is no model {model}"
    if not names:
        return f"{start}: nothing was pushed yet; `edge-registry model push` does."
    if meant := near(model, names):
        return f"{start}; did you mean {' or '.join(meant)}? `edge-registry model list` shows all."
    return f"{start}: `edge-registry model list` shows those that are there."


def no_version(model: str, version: str, newest_first: Sequence[str]) -> str:
    """The sentence for a version that was never pushed, of a model that was."""
    shown = ", ".join(newest_first[:MAX_SHOWN])
    more = f" and {len(newest_first) - MAX_SHOWN} older ones" if len(newest_first) > MAX_SHOWN else ""
    return (
        f"There is no version {version} of model {model}: it has {shown}{more}; "
        "push a new one with `edge-registry model push`."
    )
