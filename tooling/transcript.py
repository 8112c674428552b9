"""Run the commands of a document, in order and in one shell, and put what they print into it.

    python tooling/transcript.py docs/tutorial.md [--check [--replace OLD=NEW ...] [--leave-out LINE ...]]

Each block of `sh` is run; a block of `text` that follows it is replaced by the output. A command that fails ends the
run, and the document stays as it was. With `--check` nothing is written: it only says whether every command worked,
where it is told so in another folder and on another port than a reader's, and without what takes long.
Tables are laid out for a terminal of 120 columns.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

BLOCK = re.compile(r"^```(?P<kind>sh|text)\n(?P<content>.*?)^```$", re.MULTILINE | re.DOTALL)
COLUMNS = 120
STOP_GRACE_S = 30.0  # for what runs in the background


@dataclass(frozen=True)
class Block:
    """One fenced block; the place is that of what lies between the fences."""

    kind: str
    content: str
    start: int
    end: int


class CommandFailedError(Exception):
    """A command of the document ended with another exit code than 0."""


class Shell:
    """One bash for all blocks, so that variables and background jobs live on."""

    def __init__(self) -> None:
        environment = {**os.environ, "COLUMNS": str(COLUMNS)}
        self._process = subprocess.Popen(
            ["bash", "-e"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
            start_new_session=True,
        )

    def run(self, commands: str) -> str:
        """The output of some commands, both streams.

        Raises:
            CommandFailedError: one of them failed; the shell has ended.
        """
        assert self._process.stdin, "opened above"
        assert self._process.stdout, "opened above"
        end = f"end-of-block-{secrets.token_hex(8)}"
        self._process.stdin.write(f"{commands}\necho {end}\n")
        self._process.stdin.flush()
        lines: list[str] = []
        for line in self._process.stdout:
            if line.rstrip("\n").endswith(end):
                return "".join([*lines, line.rstrip("\n").removesuffix(end)])
            lines.append(line)
        raise CommandFailedError(f"exit code {self._process.wait()} after:\n{commands}\n{''.join(lines)}")

    def close(self) -> None:
        """End the shell and what it still has in the background; when this returns nothing of it is left."""
        assert self._process.stdin, "opened above"
        self._process.stdin.close()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait()
            deadline_s = time.monotonic() + STOP_GRACE_S
            while time.monotonic() < deadline_s:
                os.killpg(self._process.pid, 0)  # raises once the last one is gone
                time.sleep(0.1)
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def blocks_of(document: str) -> list[Block]:
    """The blocks that are run or filled, in order."""
    return [
        Block(found["kind"], found["content"], found.start("content"), found.end("content"))
        for found in BLOCK.finditer(document)
    ]


@dataclass(frozen=True)
class Changes:
    """What is run otherwise than the document says."""

    replaced: tuple[tuple[str, str], ...] = ()
    left_out: frozenset[str] = frozenset()

    def of(self, commands: str) -> str:
        r"""The commands to run.

        >>> Changes((("/tmp/x", "/tmp/y"),), frozenset({"make setup"})).of("make setup\nls /tmp/x\n")
        'ls /tmp/y\n'
        """
        kept = "".join(line for line in commands.splitlines(keepends=True) if line.strip() not in self.left_out)
        for old, new in self.replaced:
            kept = kept.replace(old, new)
        return kept

    def unmet(self, document: str) -> list[str]:
        """What the document does not hold: then the change would be none, and a run would go where it must not."""
        commands = "".join(block.content for block in blocks_of(document) if block.kind == "sh")
        lines = {line.strip() for line in commands.splitlines()}
        return [old for old, _ in self.replaced if old not in commands] + sorted(self.left_out - lines)


def rerun(document: str, shell: Shell, changes: Changes) -> str:
    """The document with fresh outputs.

    Raises:
        CommandFailedError: a command failed.
    """
    pieces, place, output = [], 0, None
    for block in blocks_of(document):
        if block.kind == "sh":
            commands = changes.of(block.content)
            sys.stderr.write(commands)
            output = shell.run(commands)
        elif output is not None:
            lines = [line.rstrip() for line in output.splitlines()]
            pieces += [document[place : block.start], "\n".join(lines).strip("\n") + "\n"]
            place, output = block.end, None
    return "".join([*pieces, document[place:]])


def read_arguments() -> tuple[Path, Changes, bool]:
    """The document, what to change in it, and whether it is only checked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("document", type=Path)
    parser.add_argument("--check", action="store_true", help="run it and write nothing")
    parser.add_argument("--replace", action="append", default=[], metavar="OLD=NEW", help="in the commands")
    parser.add_argument("--leave-out", action="append", default=[], metavar="LINE", help="a line that is not run")
    given = parser.parse_args()
    pairs = [text.partition("=") for text in given.replace]
    if not all(old and equals for old, equals, _ in pairs):
        parser.error("--replace takes OLD=NEW")
    changes = Changes(tuple((old, new) for old, _, new in pairs), frozenset(given.leave_out))
    if changes != Changes() and not given.check:
        parser.error("a document is written only from the commands that it shows: add --check")
    if unmet := changes.unmet(given.document.read_text("utf-8")):
        parser.error(f"no command of {given.document} holds {unmet[0]!r}")
    return given.document, changes, given.check


def main() -> int:
    """Run one document."""
    path, changes, check = read_arguments()
    shell = Shell()
    try:
        fresh = rerun(path.read_text("utf-8"), shell, changes)
    except CommandFailedError as exc:
        sys.stderr.write(f"{path}: {exc}\n")
        return 1
    finally:
        shell.close()
    if not check:
        path.write_text(fresh, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
