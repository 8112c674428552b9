"""One sentence out of what a converter raised: which operator of which layer it could not take."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from compressors.errors import ConversionError
from compressors.rehydrate import layer_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

MAX_SAID_CHARACTERS = 200  # of the converter's own words
_OPERATOR = re.compile(r"OpOverload\(op='(?P<overload>[\w.]+)'|(?P<name>torch\.ops\.[\w.]+|aten[.:][\w.:]+)")


def unconvertible(exc: Exception, target: str, network: nn.Module) -> ConversionError:
    """The error for the user.

    Args:
        exc: what the converter raised; the operator may be named by any of its causes, the first one best.
        target: the format that the network was to become.
        network: whose layers have the names that the user knows.
    """
    said = [" ".join(str(cause).split()) for cause in _causes(exc)]
    named = next((text for text in reversed(said) if _OPERATOR.search(text)), said[-1])
    operator = _OPERATOR.search(named)
    what = f"the operator {operator['overload'] or operator['name'].rstrip('.:')}" if operator else "a part of it"
    layer = next(filter(None, (layer_of(network, text) for text in (named, *reversed(said)))), None)
    where = f" in its layer {layer}" if layer else ""
    words = named.partition(" While executing")[0][:MAX_SAID_CHARACTERS]
    return ConversionError(
        f"the network can't be converted to {target}, because of {what}{where} ({words}): write that layer differently"
    )


def _causes(exc: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = exc
    while current is not None:
        yield current
        current = current.__cause__
