"""From pydantic's errors to one sentence that says what was wrong and what would do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edge_agent.protocol.base import NAME_PATTERN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_SHOWN: Final = 80
NAME_RULE: Final = (
    "1 to 63 letters, digits, dots, dashes or underscores, beginning with a letter or digit, without `..`"
)
# Where FastAPI says a value came from; no user thinks in these words.
_SOURCES: Final = frozenset({"body", "path", "query", "header", "cookie"})


def sentence(errors: Sequence[Mapping[str, Any]], *, subject: str = "") -> str:
    """The first of pydantic's errors as a sentence; `subject` names the document.

    >>> sentence([{"type": "missing", "loc": ("body", "cpu", "cores"), "msg": "Field required", "input": {}}])
    'cpu.cores is missing.'
    """
    first = errors[0]
    where = ".".join(str(part) for part in first["loc"] if part not in _SOURCES)
    problem = _problem(first, where)
    more = f" ({len(errors) - 1} more like this)" if len(errors) > 1 else ""
    text = f"{subject}: {problem}{more}" if subject else f"{problem}{more}"
    return text if text.endswith(".") else f"{text}."


def _problem(error: Mapping[str, Any], where: str) -> str:
    kind = str(error["type"])
    message = str(error["msg"]).removeprefix("Value error, ")
    if kind == "missing":
        return f"{where or 'the body'} is missing"
    if kind == "extra_forbidden":
        return f"{where} is unknown; is it spelt right?"
    if kind == "json_invalid":
        return f"the body is not JSON ({error.get('ctx', {}).get('error', message)})"
    given = _shown(error.get("input"))
    if kind == "string_pattern_mismatch" and error.get("ctx", {}).get("pattern") == NAME_PATTERN:
        return f"{where} is {given}, but a name has {NAME_RULE}"
    if kind == "value_error":
        return f"{where}: {message}" if where else message
    return f"{where} is {given}: {message[:1].lower()}{message[1:]}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
