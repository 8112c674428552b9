"""Half sentences about a value that does not fit: what was given, and what would do. Pure; imports nothing heavy."""

from __future__ import annotations

from typing import Final

MAX_SHOWN: Final = 80
_LISTS: Final = frozenset({"list_type", "tuple_type", "set_type", "frozen_set_type"})
_MAPPINGS: Final = frozenset({"dict_type", "mapping_type", "model_type", "model_attributes_type"})


def shown(value: object) -> str:
    """A value as a person would write it, cut with an ellipsis where it is long.

    >>> shown("pi-4")
    "'pi-4'"
    >>> len(shown("t" * 300))
    83
    """
    if isinstance(value, str):
        return repr(value if len(value) <= MAX_SHOWN else f"{value[:MAX_SHOWN]}…")
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def expectation(kind: str, message: str) -> str:
    """What would do, in words that need no knowledge of Python.

    Args:
        kind: the type of one of pydantic's errors.
        message: its text.

    >>> expectation("tuple_type", "Input should be a valid tuple")
    'it should be a list'
    >>> expectation("greater_than", "Input should be greater than 0")
    'it should be greater than 0'
    """
    if kind in _LISTS:
        return "it should be a list"
    if kind in _MAPPINGS:
        return "it should be a mapping of names to values"
    message = message.removeprefix("Value error, ")
    for theirs in ("Input ", "String ", "Tuple ", "List ", "Dictionary "):
        if message.startswith(theirs):
            return f"it {message.removeprefix(theirs)}"
    return f"{message[:1].lower()}{message[1:]}"
