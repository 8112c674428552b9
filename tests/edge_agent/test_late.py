from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from edge_agent import late

if TYPE_CHECKING:
    from pathlib import Path


def run(program: str) -> str:
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    return result.stdout.strip()


def test_postpone_loads_a_module_only_when_something_of_it_is_asked_for() -> None:
    program = (
        "import sys; from edge_agent.late import postpone; postpone('http.client', 'shutil')\n"
        "import http.client, shutil as s; print('email' in sys.modules, 'zlib' in sys.modules)\n"
        "print(http.client.OK, s.which.__name__, 'email' in sys.modules, type(http.client) is type(sys))\n"
        "from http.client import HTTPConnection; print(HTTPConnection is http.client.HTTPConnection)"
    )
    assert run(program).splitlines() == ["False False", "200 which True True", "True"]


def test_postpone_when_two_threads_are_first_gives_both_the_whole_module() -> None:
    program = (
        "import threading; from edge_agent.late import postpone; postpone('http.client')\n"
        "import http.client as late\n"
        "seen = []; begin = threading.Barrier(8)\n"
        "def look(): begin.wait(); seen.append(late.HTTPSConnection)\n"
        "threads = [threading.Thread(target=look) for _ in range(8)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]; print(len(seen), len(set(seen)))"
    )
    assert run(program) == "8 1"


def test_postpone_of_a_loaded_module_leaves_it() -> None:
    before = sys.modules["subprocess"]
    late.postpone("subprocess")
    assert sys.modules["subprocess"] is before


def test_without_its_init_gives_the_named_parts_of_a_package_and_runs_nothing_else() -> None:
    program = (
        "import sys; from edge_agent.late import without_its_init\n"
        "without_its_init('uvicorn', Config='config')\n"
        "from uvicorn import Config; from uvicorn.server import ServerState\n"
        "config = Config(None, lifespan='off'); config.load()\n"
        "print(hasattr(sys.modules['uvicorn'], 'run'), 'click' in sys.modules, 'multiprocessing' in sys.modules)"
    )
    assert run(program) == "False False False"


def test_start_command_loads_nothing_that_an_idle_supervisor_does_not_need(tmp_path: Path) -> None:
    unused = ("email", "zipfile", "csv", "bz2", "lzma", "numpy", "asyncio", "encodings.idna")
    program = (
        "import sys; from edge_agent.cli import main\n"
        f"main(['start', '--registry', 'http://127.0.0.1:9', '--data-dir', {str(tmp_path)!r}])\n"
        f"print('paho.mqtt.client' in sys.modules, *[name for name in {unused!r} if name in sys.modules])"
    )
    assert run(program) == "True"
