import subprocess
import sys

import pytest

from edge_agent.errors import RuntimeMissingError
from edge_agent.protocol.profile import RuntimeName
from edge_agent.runtimes.registry import installed_runtimes, open_runtime


def test_installed_runtimes_of_this_environment_names_all_but_the_one_with_an_older_numpy() -> None:
    assert list(installed_runtimes()) == [RuntimeName.LITERT, RuntimeName.ONNX, RuntimeName.EXECUTORCH]


def test_installed_runtimes_when_asked_imports_no_interpreter_and_no_numpy() -> None:
    code = (
        "import sys; from edge_agent.runtimes.registry import installed_runtimes; installed_runtimes();"
        "print([m for m in ('numpy', 'ai_edge_litert', 'onnxruntime', 'executorch', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("runtime", "brings"),
    [(RuntimeName.LITERT, "ai_edge_litert"), (RuntimeName.ONNX, "onnxruntime")],
)
def test_open_runtime_imports_no_other_runtime(runtime: RuntimeName, brings: str) -> None:
    code = (
        f"import sys, edge_agent.runner.__main__; from edge_agent.runtimes.registry import open_runtime;"
        f"open_runtime({runtime.value!r});"
        "print(*(m for m in ('ai_edge_litert', 'onnxruntime', 'executorch', 'torch') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [brings]


def test_open_runtime_that_is_missing_says_what_to_install() -> None:
    with pytest.raises(RuntimeMissingError, match="pip install tflite-runtime"):
        open_runtime(RuntimeName.TFLITE)
