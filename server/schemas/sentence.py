"""From pydantic's errors to one sentence that says what was wrong and what would do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edge_agent.protocol.base import NAME_PATTERN
from edge_agent.protocol.refusal import expectation, shown
from server.schemas.fleet import LABEL_KEY_PATTERN, LABEL_VALUE_PATTERN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NAME_RULE: Final = (
    "1 to 63 letters, digits, dots, dashes or underscores, beginning with a letter or digit, without `..`"
)
_RULES: Final = {
    NAME_PATTERN: f"a name has {NAME_RULE}",
    LABEL_KEY_PATTERN: "a label has 1 to 32 letters, digits, dots, dashes or underscores, beginning with a letter",
    LABEL_VALUE_PATTERN: "a label's value has 1 to 63 letters, digits, or any of . _ - + /",
}
_WHOLE: Final = "the body"
# Where FastAPI says a value came from; no user thinks in these words.
_SOURCES: Final = frozenset({"body", "path", "query", "header", "cookie"})


def sentence(errors: Sequence[Mapping[str, Any]], *, subject: str = "") -> str:
    """The first of pydantic's errors as a sentence; `subject` names the document.

    >>> sentence([{"type": "missing", "loc": ("body", "cpu", "cores"), "msg": "Field required", "input": {}}])
    'cpu.cores is missing.'
    """
    first = errors[0]
    where = _place([str(part) for part in first["loc"] if part not in _SOURCES])
    problem = _problem(first, where)
    more = f" ({len(errors) - 1} more like this)" if len(errors) > 1 else ""
    text = f"{subject}: {problem}{more}" if subject else f"{problem}{more}"
    return text if text.endswith(".") else f"{text}."


def _place(parts: Sequence[str]) -> str:
    """Which value it is; empty: the document as a whole."""
    if parts[-1:] == ["[key]"]:
        return f"a name in {'.'.join(parts[:-2]) or _WHOLE}"
    return ".".join(parts)


def _problem(error: Mapping[str, Any], where: str) -> str:
    kind, message = str(error["type"]), str(error["msg"]).removeprefix("Value error, ")
    subject = where or _WHOLE
    if kind == "missing":
        return f"{subject} is missing"
    if kind == "extra_forbidden":
        return f"{where} is unknown; is it spelt right?"
    if kind == "json_invalid":
        return f"the body is not JSON ({error.get('ctx', {}).get('error', message)})"
    if kind == "value_error":
        return f"{where}: {message}" if where else message
    if kind in {"too_long", "too_short"}:
        return f"{subject} {_length(error)}"
    given = shown(error.get("input"))
    rule = _RULES.get(error.get("ctx", {}).get("pattern"))
    if rule:
        return f"{subject} is {given}, but {rule}"
    if kind in {"model_type", "model_attributes_type"} and not where:
        return f"{subject} is {given}: it should be a JSON object, sent with the content type application/json"
    return f"{subject} is {given}: {expectation(kind, message)}"


def _length(error: Mapping[str, Any]) -> str:
    context = error["ctx"]
    parts = "characters" if isinstance(error["input"], str) else "entries"
    allowed = (
        f"may have at most {context['max_length']}" if "max_length" in context else f"needs {context['min_length']}"
    )
    return f"has {context['actual_length']} {parts}, and {allowed}"
