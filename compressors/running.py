"""What operators raise, as sentences: torch has an error of its own for nothing of this."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch

from compressors.errors import CompressorError, ModelRunError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_SAID_CHARACTERS = 200  # of torch's own words


@contextlib.contextmanager
def operators_may_refuse(what: str, advice: str) -> Iterator[None]:
    """Turn what an operator raises for values that it can't take into one sentence: `what (torch's words): advice`.

    Raises:
        ModelRunError: an operator refused.
        MemoryError: there was not enough.
    """
    try:
        yield
    except (CompressorError, MemoryError):
        raise
    except Exception as exc:  # an operator raises whatever it likes
        refuse_without_memory(exc)
        raise ModelRunError(f"{what} ({first_line(exc)}): {advice}") from exc


def refuse_without_memory(exc: BaseException) -> None:
    """Call it first where everything that a library raises becomes a sentence about the model.

    Raises:
        MemoryError: there was not enough, which is no fault of the model.
    """
    said = first_line(exc)
    # torch has no error of its own for that on a CPU, and one for accelerators
    if isinstance(exc, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in said:
        raise MemoryError(said) from exc


def first_line(exc: BaseException) -> str:
    """What an exception says, in one short line."""
    return (str(exc).strip() or type(exc).__name__).splitlines()[0][:MAX_SAID_CHARACTERS]
