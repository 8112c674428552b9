"""One sentence out of what a converter raised: which operator of which layer it could not take."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from compressors.errors import ConversionError
from compressors.rehydrate import layer_of
from compressors.running import refuse_without_memory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

MAX_SAID_CHARACTERS = 200  # of the converter's own words
_OPERATOR = re.compile(
    r"OpOverload\(op='(?P<overload>[\w.]+)'|(?P<name>torch\.ops\.[\w.]+|aten[.:][\w.:]+|\w+::\w+)|'(?P<lowered>tfl?\.\w+)'"
)
_OWN_PLACE = re.compile(r"\S*/\S+\.py:\d+:\d+: (error: )?")  # a line of a library here, which tells the user nothing


def unconvertible(exc: Exception, target: str, network: nn.Module) -> ConversionError:
    """The error for the user.

    Args:
        exc: what the converter raised; the operator may be named by any of its causes, the first one best.
        target: the format that the network was to become.
        network: whose layers have the names that the user knows.

    Raises:
        MemoryError: there was not enough for it.
    """
    refuse_without_memory(exc)
    said = [" ".join(str(cause).split()) for cause in _causes(exc)]
    named = next((text for text in reversed(said) if _OPERATOR.search(text)), said[-1])
    operator = _OPERATOR.search(named)
    found = next(filter(None, operator.groups()), "").rstrip(".:") if operator else ""
    what = f"the operator {found}" if found else "a part of it"
    layer = next(filter(None, (layer_of(network, text) for text in (named, *reversed(said)))), None)
    where = f" in its layer {layer}" if layer else ""
    words = _OWN_PLACE.sub("", named.partition(" While executing")[0])[:MAX_SAID_CHARACTERS]
    return ConversionError(
        f"the network can't be converted to {target}, because of {what}{where} ({words}): write that layer differently"
    )


def _causes(exc: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = exc
    while current is not None:
        yield current
        current = current.__cause__
