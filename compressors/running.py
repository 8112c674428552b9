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
    except torch.OutOfMemoryError as exc:  # of an accelerator
        raise MemoryError(first_line(exc)) from exc
    except Exception as exc:  # an operator raises whatever it likes
        said = first_line(exc)
        if "can't allocate memory" in said:  # torch has no error of its own for that on a CPU
            raise MemoryError(said) from exc
        raise ModelRunError(f"{what} ({said}): {advice}") from exc


def first_line(exc: Exception) -> str:
    """What an exception says, in one short line."""
    return (str(exc).strip() or type(exc).__name__).splitlines()[0][:MAX_SAID_CHARACTERS]
