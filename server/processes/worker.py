"""A job worker: `python -m server.processes.worker`. Settings come from the environment. Start as many as you like."""

import logging
import os
import signal
import socket
import sys
import threading
import time
from functools import partial
from pathlib import Path
from types import FrameType

from server.database.connect import Database
from server.errors import RegistryError
from server.heartbeats import Heart, Process
from server.jobs.process import JobLimits
from server.jobs.runner import JobRunner, JobSettings
from server.jobs.worker import Worker
from server.jobs.workspace import clear_abandoned
from server.retention.keeper import keep_sweeping
from server.retention.requests import latest_request
from server.retention.sweep import sweep_cache
from server.schemas.retention import Swept
from server.settings import RegistrySettings, load_settings
from server.storage import S3ObjectStore


def job_settings(settings: RegistrySettings) -> JobSettings:
    """What jobs need of the settings."""
    return JobSettings(
        data_dir=settings.data_dir,
        limits=JobLimits.of(memory_bytes=settings.job_memory_bytes, timeout_s=settings.job_timeout_s),
        pythons=dict(settings.runtime_pythons),
        host_cpu_model=host_cpu_model(Path("/proc/cpuinfo").read_text("utf-8", "replace")),
    )


def host_cpu_model(cpuinfo: str) -> str | None:
    """The name of an x86 CPU as `edge-agent probe` writes it; None where the kernel has no such line (Arm)."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()[:128] or None
    return None


def _sweep(settings: RegistrySettings) -> list[Swept]:
    return [sweep_cache(settings, now=time.time())]


def main() -> int:
    """Work until SIGTERM or SIGINT."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    stop = threading.Event()

    def stop_soon(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, stop_soon)
    signal.signal(signal.SIGINT, stop_soon)
    try:
        settings = load_settings()
        catalogue, telemetry = Database(settings.database_url), Database(settings.telemetry_url)
        store = S3ObjectStore.from_settings(settings)
        jobs = job_settings(settings)
        clear_abandoned(jobs.work_dir)
        # each machine with workers has a cache of its own, and only they can reach it
        threading.Thread(
            target=keep_sweeping,
            args=(partial(_sweep, settings), stop),
            kwargs={"latest_request": partial(latest_request, catalogue)},
            daemon=True,
        ).start()
        # a new name for each start: a worker that comes back must not pass for the one that lost the job
        name = f"{socket.gethostname()[:32]}:{os.getpid()}:{os.urandom(4).hex()}"
        with Heart(catalogue, Process.WORKER) as heart:
            Worker(catalogue, JobRunner(catalogue, telemetry, store, jobs), name=name, pulse=heart.pulse).run(stop)
    except RegistryError as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    store.close()
    catalogue.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
