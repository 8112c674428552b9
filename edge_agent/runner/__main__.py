"""`python -m edge_agent.runner --control-fd N`: started by the supervisor, of no use to people."""

from __future__ import annotations

import argparse
import os

if __name__ == "__main__":
    from edge_agent.protocol.base import build_late
    from edge_agent.supervisor.late import postpone, without_its_init

    postpone("importlib.metadata")  # for pydantic's plugins, which there are none of
    without_its_init("uvicorn", Config="config")
    build_late()

    from edge_agent.protocol.messages import SelfTestReport
    from edge_agent.runner.channel import die_with_the_supervisor
    from edge_agent.runner.control import Refused
    from edge_agent.runner.process import main

    for made_in_the_worker_thread in (SelfTestReport, Refused):
        made_in_the_worker_thread.model_rebuild()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy only converts here: its threads would cost memory
    parser = argparse.ArgumentParser(prog="edge_agent.runner", description="Holds one model; started by edge-agent.")
    parser.add_argument("--control-fd", type=int, required=True, help="inherited socket to the supervisor")
    control_descriptor = parser.parse_args().control_fd
    die_with_the_supervisor(control_descriptor)
    main(control_descriptor)
