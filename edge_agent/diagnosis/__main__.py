"""`python -m edge_agent.diagnosis DATA_DIR LINES`: started by the supervisor, which sends on what is written here."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    from edge_agent.diagnosis.gather import gather
    from edge_agent.diagnosis.shorten import diagnosis_within
    from edge_agent.layout import Layout
    from edge_agent.protocol.inquiry import MAX_PACKED_BYTES

    diagnosis = gather(Layout(Path(sys.argv[1])), lines=int(sys.argv[2]))
    sys.stdout.buffer.write(diagnosis_within(diagnosis, MAX_PACKED_BYTES))
