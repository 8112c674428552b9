"""YAML that a person has written, as plain data: nothing in it can run, or unfold into more than it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Hashable


class PlainYamlError(ValueError):
    """The text is too large, or no plain YAML; half a sentence that begins behind what it is of."""


class _PlainLoader(yaml.SafeLoader):
    """An alias can make a small file unfold into gigabytes; of a key that is there twice, the first would be lost."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not allowed", None)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002  theirs
        seen = set[str]()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                problem = f"{key.value[:40]!r} is there twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_plain(text: str, *, max_bytes: int) -> object:
    """Read a document.

    Raises:
        PlainYamlError: it is larger than `max_bytes`, nested too deep, or no YAML of plain data.
    """
    if len(text.encode(errors="replace")) > max_bytes:
        raise PlainYamlError(f"is larger than {max_bytes} bytes")
    try:
        return yaml.load(text, Loader=_PlainLoader)  # noqa: S506  a SafeLoader that refuses more
    except (yaml.YAMLError, RecursionError, ValueError) as exc:
        raise PlainYamlError(f"is not usable YAML: {_first_line(exc)}") from exc


def _first_line(exc: Exception) -> str:
    mark = getattr(exc, "problem_mark", None)
    problem = getattr(exc, "problem", None) or str(exc).partition("\n")[0]
    return f"line {mark.line + 1}: {problem}" if mark is not None else str(problem)
