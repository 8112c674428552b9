"""`python -m edge_agent.runner --control-fd N`: started by the supervisor, of no use to people."""

from __future__ import annotations

import argparse

from edge_agent.runner.process import main

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="edge_agent.runner", description="Holds one model; started by edge-agent.")
    parser.add_argument("--control-fd", type=int, required=True, help="inherited socket to the supervisor")
    main(parser.parse_args().control_fd)
