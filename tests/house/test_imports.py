"""Who imports whom: every file is read, none is run, so that a lazy import deep in a function counts too."""

import ast
import functools
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("compressors", "edge_agent", "server")
HEAVY = {
    "ai_edge_quantizer",
    "alembic",
    "boto3",
    "botocore",
    "fastapi",
    "jax",
    "litert_quantizer",
    "litert_torch",
    "pandas",
    "scipy",
    "sqlalchemy",
    "torch",
    "torchao",
}
# What the supervisor is made of, each folder knowing only those before it.
SUPERVISOR = (
    "edge_agent.protocol",
    "edge_agent.deployments",
    "edge_agent.storage",
    "edge_agent.telemetry",
    "edge_agent.link",
    "edge_agent.transfer",
    "edge_agent.supervisor",
)
# What the compressors are made of, from what everybody may know to what puts all together.
COMPRESSORS = tuple(
    f"compressors.{name}"
    for name in (
        *("errors", "contract", "search_contract", "quiet", "extras", "running", "metrics", "bootstrap"),
        *("data", "files", "rehydrate", "inputs", "step", "network", "measuring"),
        *("calibration", "quantization", "npu", "training", "students", "pruning", "simulation", "repairs"),
        *("sensitivity", "steps", "recipes", "packing", "building", "searching", "reporting", "job"),
    )
)
CONTRACT = ("compressors.contract", "compressors.search_contract")
INTERPRETERS = {"ai_edge_litert", "executorch", "onnxruntime", "tflite_runtime"}
# Distributions that are not installed where the tests run, or whose import name nothing tells.
OWN_ENVIRONMENT = {"compressors.npu.rockchip_worker"}  # scripts that another environment's Python runs
IMPORT_NAMES = {"psycopg": "psycopg", "tflite_runtime": "tflite-runtime"}


class _Imports(ast.NodeVisitor):
    """Collects what a module imports: all of it, and what already runs when the module is imported."""

    def __init__(self, module: str, *, is_package: bool) -> None:
        self.everything: set[str] = set()
        self.at_import: set[str] = set()
        self._package = module if is_package else module.rpartition(".")[0]
        self._deferred = 0

    def _add(self, name: str) -> None:
        self.everything.add(name)
        if not self._deferred:
            self.at_import.add(name)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            above = self._package.split(".")[: len(self._package.split(".")) - node.level + 1]
            base = ".".join([*above, *([base] if base else [])])
        self._add(base)
        for alias in node.names:  # `from package import module` imports the module as well
            self._add(f"{base}.{alias.name}")

    def _visit_deferred(self, nodes: list[ast.stmt]) -> None:
        self._deferred += 1
        for node in nodes:
            self.visit(node)
        self._deferred -= 1

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._visit_deferred(node.body)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.visit_FunctionDef(node)

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" not in ast.unparse(node.test):
            self.generic_visit(node)
            return
        self._visit_deferred(node.body)
        for other in node.orelse:
            self.visit(other)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def modules() -> dict[str, _Imports]:
    """Every module of the three packages by its dotted name."""
    found: dict[str, _Imports] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = module_name(path)
            found[name] = _Imports(name, is_package=path.name == "__init__.py")
            found[name].visit(ast.parse(path.read_text(encoding="utf-8"), str(path)))
    return found


def within(name: str, *prefixes: str) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def offences(inside: tuple[str, ...], forbidden: set[str], *, but: tuple[str, ...] = ()) -> list[str]:
    """`module -> import` wherever a module in `inside` (not in `but`) names something forbidden."""
    return [
        f"{module} -> {name}"
        for module, imports in modules().items()
        if within(module, *inside) and not within(module, *but)
        for name in sorted(imports.everything)
        if within(name, *forbidden)
    ]


def loaded_with(start: str) -> Iterator[tuple[str, str]]:
    """(import, module that names it) for all that gets loaded when `start` is imported, through our own modules."""
    todo, seen = [start], set[str]()
    while todo:
        module = todo.pop()
        if module in seen or module not in modules():
            continue
        seen.add(module)
        parents = [module.rsplit(".", depth)[0] for depth in range(1, module.count(".") + 1)]
        for name in sorted(modules()[module].at_import):
            yield name, module
            todo.append(name)
        todo.extend(parents)


def declared(*extras: str) -> set[str]:
    """Names of the distributions that these extras of pyproject.toml ask for, the base dependencies included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names: set[str] = set()
    for requirement in [*project["dependencies"], *(r for e in extras for r in project["optional-dependencies"][e])]:
        if own := re.fullmatch(r"shoal\[([a-z,-]+)\]", requirement):
            names |= declared(*own[1].split(","))
        else:
            names.add(re.split(r"[^A-Za-z0-9_.-]", requirement, maxsplit=1)[0].lower())
    return names


def test_packages_are_all_read() -> None:
    assert {name.split(".")[0] for name in modules()} == set(PACKAGES)


@pytest.mark.parametrize(
    ("inside", "forbidden", "but"),
    [
        pytest.param(
            ("edge_agent",), {"server", "compressors"} | HEAVY, ("edge_agent.runtimes.executorch",), id="agent"
        ),
        pytest.param(
            ("edge_agent.runtimes.executorch",), {"server", "compressors"} | (HEAVY - {"torch"}), (), id="executorch"
        ),
        pytest.param(SUPERVISOR, {"numpy"} | INTERPRETERS, (), id="supervisor"),
        pytest.param(
            ("compressors",), {"server", "boto3", "sqlalchemy", "fastapi", "httpx", "paho"}, (), id="compressors"
        ),
        pytest.param(("server",), {"compressors"}, ("server.jobs",), id="only-jobs-compress"),
        pytest.param(
            ("server",), {"torch", "litert_torch", "litert_quantizer", "ai_edge_litert", "jax"}, (), id="server"
        ),
        pytest.param(
            ("server.client", "server.schemas"), {"sqlalchemy", "alembic", "boto3", "fastapi"}, (), id="client"
        ),
        pytest.param(("server.cli",), {"sqlalchemy", "alembic", "boto3", "fastapi"}, (), id="cli"),
    ],
)
def test_import_against_the_arrows_is_found_nowhere(
    inside: tuple[str, ...], forbidden: set[str], but: tuple[str, ...]
) -> None:
    assert offences(inside, forbidden, but=but) == []


@pytest.mark.parametrize("order", [pytest.param(SUPERVISOR, id="agent"), pytest.param(COMPRESSORS, id="compressors")])
def test_folder_knows_only_those_before_it(order: tuple[str, ...]) -> None:
    for position, folder in enumerate(order):
        assert any(within(name, folder) for name in modules()), f"{folder} is gone: this rule holds nothing"
        assert offences((folder,), set(order[position + 1 :])) == []


def test_folders_of_the_compressors_all_have_a_place_in_their_order() -> None:
    assert {".".join(name.split(".")[:2]) for name in modules() if within(name, "compressors")} == {
        "compressors",
        *COMPRESSORS,
    }


def test_core_of_the_agent_does_no_io() -> None:
    io = {"asyncio", "io", "os", "pathlib", "random", "select", "socket", "sqlite3", "subprocess", "threading", "time"}
    assert offences(("edge_agent.deployments",), io) == []


def test_compressors_import_of_the_agent_only_what_measures() -> None:
    allowed = ("edge_agent.protocol", "edge_agent.runtimes", "edge_agent.errors")
    named = {
        f"{module} -> {name}"
        for module, imports in modules().items()
        if within(module, "compressors")
        for name in imports.everything
        if within(name, "edge_agent") and name != "edge_agent" and not within(name, *allowed)
    }
    assert named == set()


def test_server_imports_of_the_agent_only_the_protocol() -> None:
    allowed = ("edge_agent.protocol", "edge_agent.profiles")
    named = {
        f"{module} -> {name}"
        for module, imports in modules().items()
        if within(module, "server")
        for name in imports.everything
        if within(name, "edge_agent") and name != "edge_agent" and not within(name, *allowed)
    }
    assert named == set()


def test_server_jobs_import_of_compressors_only_the_contract() -> None:
    # a job is a process of its own: whoever starts it knows what goes in and comes out, and nothing that needs torch
    named = {
        f"{module} -> {name}"
        for module, imports in modules().items()
        if within(module, "server.jobs")
        for name in imports.everything
        if within(name, "compressors") and name != "compressors" and not within(name, *CONTRACT)
    }
    assert named == set()


def test_protocol_imports_only_pydantic_ddsketch_and_the_standard_library() -> None:
    allowed = {"pydantic", "pydantic_core", "ddsketch"} | sys.stdlib_module_names
    named = {
        f"{module} -> {name}"
        for module, imports in modules().items()
        if within(module, "edge_agent.protocol")
        for name in imports.everything
        if name.split(".")[0] not in allowed and not within(name, "edge_agent.protocol")
    }
    assert named == set()


@pytest.mark.parametrize(
    ("start", "never_loaded"),
    [
        pytest.param("edge_agent.supervisor", {"numpy"} | INTERPRETERS, id="supervisor"),
        pytest.param("edge_agent.cli", {"numpy", "uvicorn"} | INTERPRETERS, id="agent-cli"),
        pytest.param("edge_agent.runner", {"torch"} | INTERPRETERS, id="runner"),
        pytest.param("server.cli", {"sqlalchemy", "alembic", "boto3", "fastapi", "compressors"}, id="registry-cli"),
        pytest.param("server.client", {"sqlalchemy", "alembic", "boto3", "fastapi", "compressors"}, id="client"),
        pytest.param("server.schemas", {"sqlalchemy", "alembic", "boto3", "fastapi", "compressors"}, id="schemas"),
        pytest.param("server.api", {"compressors", "torch"}, id="api"),
        pytest.param("compressors.contract", {"numpy", "torch", "zstandard"} | INTERPRETERS, id="compressors-contract"),
        pytest.param(
            "compressors.search_contract", {"numpy", "torch", "zstandard"} | INTERPRETERS, id="search-contract"
        ),
    ],
)
def test_import_of_a_part_loads_nothing_it_must_not_know(start: str, never_loaded: set[str]) -> None:
    starts = [name for name in modules() if within(name, start)]
    assert starts, f"{start} is gone: this rule holds nothing"
    named = {f"{by} -> {name}" for one in starts for name, by in loaded_with(one) if within(name, *never_loaded)}
    assert named == set()


@pytest.mark.parametrize(
    ("package", "extras"),
    [
        ("edge_agent", ("agent", "agent-tflite", "agent-onnx", "agent-executorch")),
        ("compressors", ("compress", "keras", "tensorflow", "onnx", "executorch", "ethos-u")),
        ("server", ("server", "postgresql")),
    ],
)
def test_third_party_import_is_declared_in_the_extras(package: str, extras: tuple[str, ...]) -> None:
    distributions = packages_distributions()
    undeclared = set()
    for module, imports in modules().items():
        for name in {name.split(".")[0] for name in imports.everything}:
            if (
                module in OWN_ENVIRONMENT
                or not within(module, package)
                or name in sys.stdlib_module_names
                or name in PACKAGES
            ):
                continue
            owners = {one.lower().replace("_", "-") for one in distributions.get(name, [IMPORT_NAMES.get(name, name)])}
            if not owners & declared(*extras):
                undeclared.add(f"{module} -> {name}")
    assert undeclared == set()
