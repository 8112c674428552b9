"""Which memory a runner lets go of, and that it lives on without it."""

from __future__ import annotations

import json
import subprocess
import sys

from edge_agent.runner.memory import code_regions

SMAPS = """\
7f0000000000-7f0000004000 r--p 00000000 08:01 11    /usr/lib/libone.so
Rss:                  16 kB
Anonymous:             0 kB
7f0000004000-7f0000008000 r-xp 00004000 08:01 11    /usr/lib/libone.so
Rss:                  16 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
7f0000008000-7f000000a000 rw-p 00008000 08:01 11    /usr/lib/libone.so
Anonymous:             0 kB
7f0000010000-7f0000018000 r-xp 00000000 08:01 12    /usr/lib/lib with spaces.so
Anonymous:             8 kB
7f0000020000-7f0000022000 r-xp 00000000 00:00 0
Anonymous:             0 kB
7ffc0b5f4000-7ffc0b5f6000 r-xp 00000000 00:00 0     [vdso]
Anonymous:             0 kB
7f0000030000-7f0000031000 r-xp 00000000 08:01 13    /usr/lib/libtwo.so (deleted)
Anonymous:             0 kB
""".splitlines()

PROGRAM = """
import json, re, sys
from pathlib import Path
from edge_agent.runner.memory import give_back
def resident():
    status = Path("/proc/self/status").read_text()
    return [int(re.search(kind + r":\\s+(\\d+)", status)[1]) for kind in ("RssFile", "RssAnon")]
heap = [bytes(1000) for _ in range(20_000)]
kept = bytes(1000)  # above the rest: the heap does not shrink by itself
del heap
before = resident()
give_back()
print(json.dumps([before, resident(), sorted([3, 1, 2])]))
"""


def test_code_regions_are_code_from_files_that_nobody_has_changed() -> None:
    assert list(code_regions(SMAPS)) == [(0x7F0000004000, 0x4000), (0x7F0000030000, 0x1000)]


def test_give_back_leaves_a_process_that_works_with_less_of_it() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    before, after, *answer = json.loads(done.stdout)
    assert after[0] < before[0], "code"
    assert after[1] < before[1] - 10_000, "20 MB of heap in KiB, about"
    assert answer == [[1, 2, 3]]
