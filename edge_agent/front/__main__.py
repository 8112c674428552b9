"""`python -m edge_agent.front --control-fd N`: started by the supervisor, of no use to people."""

from __future__ import annotations

import argparse

if __name__ == "__main__":
    from edge_agent.protocol.base import build_late
    from edge_agent.supervisor.late import postpone, without_its_init

    postpone("importlib.metadata")
    without_its_init("uvicorn", Config="config")
    build_late()

    from edge_agent.front.process import main
    from edge_agent.runner.channel import die_with_the_supervisor

    parser = argparse.ArgumentParser(prog="edge_agent.front", description="Forwards to runners; started by edge-agent.")
    parser.add_argument("--control-fd", type=int, required=True, help="inherited socket to the supervisor")
    control_descriptor = parser.parse_args().control_fd
    die_with_the_supervisor(control_descriptor)
    main(control_descriptor)
