"""Unpack processes: started, waited for without blocking, their verdict told as an event."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from edge_agent.deployments.events import Unpacked, UnpackFailed
from edge_agent.protocol.states import Reason

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edge_agent.protocol.delta import Delta

log = logging.getLogger(__name__)
NICENESS = 10  # whoever answers requests meanwhile comes first


class Unpackings:
    """Every object that is being unpacked."""

    def __init__(
        self,
        *,
        watch: Callable[[int, Callable[[], None]], None],
        unwatch: Callable[[int], None],
        deliver: Callable[[Unpacked | UnpackFailed], None],
    ) -> None:
        self._watch, self._unwatch, self._deliver = watch, unwatch, deliver
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(
        self,
        manifest_sha256: str,
        *,
        object_path: Path,
        manifest_path: Path,
        target: Path,
        delta: Delta | None = None,
        base: Path | None = None,
    ) -> None:
        """Unpack; `Unpacked` or `UnpackFailed` follows. `base`: the variant that the object, a delta, is applied to."""
        if manifest_sha256 in self._processes:
            return
        command = [
            sys.executable,
            "-m",
            "edge_agent.transfer.unpack",
            str(object_path),
            str(manifest_path),
            str(target),
        ]
        if delta is not None and base is not None:
            command += [str(base), delta.model_dump_json()]
        process = subprocess.Popen(  # noqa: S603  our own module, no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            process_group=0,
        )
        with contextlib.suppress(OSError):  # it has ended already
            os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
        self._processes[manifest_sha256] = process
        if process.stdout is not None:
            descriptor = process.stdout.fileno()
            os.set_blocking(descriptor, False)
            self._watch(descriptor, lambda: self._readable(manifest_sha256, process, descriptor))

    def close(self) -> None:
        """End them; the next start begins their state again."""
        for process in self._processes.values():
            process.kill()
            process.communicate()
        self._processes.clear()

    def _readable(self, manifest_sha256: str, process: subprocess.Popen[bytes], descriptor: int) -> None:
        # the verdict is one short line, written as the last thing before the exit
        output = os.read(descriptor, 64 * 1024)
        self._unwatch(descriptor)
        process.communicate()
        del self._processes[manifest_sha256]
        self._deliver(_verdict(manifest_sha256, output, process.returncode))


def _verdict(manifest_sha256: str, output: bytes, code: int) -> Unpacked | UnpackFailed:
    try:
        document = json.loads(output)
        reason, detail = Reason(document["reason"]), str(document["detail"])
    except (ValueError, KeyError, TypeError):
        return UnpackFailed(manifest_sha256, Reason.INTERNAL, f"unpacking ended with code {code} and no verdict")
    if reason is Reason.NONE:
        return Unpacked(manifest_sha256)
    return UnpackFailed(manifest_sha256, reason, detail)
