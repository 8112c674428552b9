"""Numbers of devices as people say them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def counted(number: int, one: str, many: str) -> str:
    """A number with the words that agree with it.

    >>> counted(1, "device goes", "devices go")
    '1 device goes'
    >>> counted(0, "device goes", "devices go")
    'no devices go'
    """
    return f"1 {one}" if number == 1 else f"{number or 'no'} {many}"


def will_not_get_it(number: int, *, other: bool = False) -> str:
    """Half a sentence: how many devices an offer was taken back from."""
    among = "other " if other else ""
    if number == 0:
        return f"no {among}device was still to get it"
    return f"{counted(number, f'{among}device', f'{among}devices')} will not get it"


def listed(parts: Sequence[str]) -> str:
    """Parts of a sentence as people list them.

    >>> listed(["one", "two", "three"])
    'one, two and three'
    """
    return " and ".join(part for part in (", ".join(parts[:-1]), *parts[-1:]) if part)


def percent(share: float | str) -> str:
    """A share as people read it.

    >>> percent(0.0123), percent(1.5)
    ('1.2 %', '150 %')
    """
    return f"{100 * float(share):.2g} %" if abs(float(share)) < 1 else f"{100 * float(share):.0f} %"
