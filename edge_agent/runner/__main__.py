"""`python -m edge_agent.runner --control-fd N`: started by the supervisor, of no use to people."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    from edge_agent.late import postpone, without_its_init
    from edge_agent.protocol.base import build_late

    postpone("importlib.metadata", "shutil")  # for pydantic's plugins, which there are none of
    without_its_init("uvicorn", Config="config")
    build_late()

    from edge_agent.protocol.messages import SelfTestReport
    from edge_agent.runner.channel import control_descriptor_of, die_with_the_supervisor
    from edge_agent.runner.control import Refused
    from edge_agent.runner.process import main

    for made_in_the_worker_thread in (SelfTestReport, Refused):
        made_in_the_worker_thread.model_rebuild()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy only converts here: its threads would cost memory
    control_descriptor = control_descriptor_of(sys.argv[1:])
    die_with_the_supervisor(control_descriptor)
    main(control_descriptor)
