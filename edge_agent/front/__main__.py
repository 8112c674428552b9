"""`python -m edge_agent.front --control-fd N`: started by the supervisor, of no use to people."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from edge_agent.late import postpone, without_its_init
    from edge_agent.protocol.base import build_late

    postpone("importlib.metadata", "shutil")
    without_its_init("uvicorn", Config="config")
    build_late()

    from edge_agent.front.process import main
    from edge_agent.runner.channel import control_descriptor_of, die_with_the_supervisor

    control_descriptor = control_descriptor_of(sys.argv[1:])
    die_with_the_supervisor(control_descriptor)
    main(control_descriptor)
