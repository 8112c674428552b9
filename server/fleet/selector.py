"""Which devices are meant: `site=berlin,ring!=stable,profile=pi-4`. All terms must hold; empty text means every device.

Pure. `profile` and `id` (or `device_id`) are the device's own; every other key is a label. A missing label equals
nothing, so `ring!=stable` holds for a device without a ring.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edge_agent.protocol.refusal import shown
from server.errors import RegistryError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_LENGTH: Final = 512
EXAMPLE: Final = "site=berlin,ring!=stable,profile=pi-4"

_TERM: Final = re.compile(r"([A-Za-z][A-Za-z0-9_.-]{0,31})\s*(!=|==|=)\s*([A-Za-z0-9_.+/-]{1,63})")
_OWN: Final = {"id": "id", "device_id": "id", "profile": "profile"}


class SelectorError(RegistryError):
    """A selector that can't be read."""

    code = "bad_selector"


@dataclass(frozen=True, slots=True)
class Term:
    """One comparison."""

    key: str
    value: str
    negated: bool

    def __str__(self) -> str:
        return f"{self.key}{'!=' if self.negated else '='}{self.value}"


@dataclass(frozen=True, slots=True)
class Selector:
    """Terms that must all hold; none: every device."""

    terms: tuple[Term, ...] = ()

    def __str__(self) -> str:
        return ",".join(str(term) for term in self.terms)

    def matches(self, labels: Mapping[str, str], profile: str, device_id: str) -> bool:
        """Whether a device is meant."""
        own = {"profile": profile, "id": device_id}
        for term in self.terms:
            actual = own[_OWN[term.key]] if term.key in _OWN else labels.get(term.key)
            if (actual == term.value) == term.negated:
                return False
        return True


def parse(text: str) -> Selector:
    """Read a selector.

    Raises:
        SelectorError: the sentence names the term that can't be read.
    """
    if len(text) > MAX_LENGTH:
        raise SelectorError(f"A selector has at most {MAX_LENGTH} characters, this one has {len(text)}.")
    if not text.strip():
        return Selector()
    terms = []
    for part in text.split(","):
        match = _TERM.fullmatch(part.strip())
        if match is None:
            raise SelectorError(
                f"The part {shown(part.strip())} of the selector is not KEY=VALUE or KEY!=VALUE; write {EXAMPLE}."
            )
        terms.append(Term(key=match[1], value=match[3], negated=match[2] == "!="))
    return Selector(tuple(terms))
