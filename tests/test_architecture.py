"""The rules of the house that a machine can hold."""

import ast
import gc
import re
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FORBIDDEN = {
    "pipeline": {"pyspark", "typer", "rich", "jobs", "classifiers", "trainer"},
    "classifiers": {"pyspark", "typer", "rich", "jobs", "trainer"},
    "trainer": {"jobs", "classifiers"},
}


@cache
def tree(path: Path) -> ast.Module:
    # A collection of garbage while Python 3.11 builds a tree can run code at another depth, at which ast takes fright.
    gc.disable()
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    finally:
        gc.enable()


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_point_one_way(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        assert not imports(path) & FORBIDDEN[package], path


def test_the_trainer_needs_of_the_pipeline_only_errors_and_the_reading_of_yaml() -> None:
    """It runs where Spark and Arrow are not: on the machines with the GPUs."""
    allowed = {"pipeline.errors", "pipeline.yaml_files"}
    for path in (ROOT / "trainer").rglob("*.py"):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "pipeline":
                assert node.module in allowed, path
        assert not imports(path) & {"pyarrow", "pyspark", "numba"}, path


def test_nothing_depends_on_position_or_on_the_hash_seed() -> None:
    forbidden = re.compile(
        r"monotonically_increasing_id|(?<![\w.])hash\(|^import random|\.toPandas\(\)|\.collect\(\)", re.MULTILINE
    )
    for package in ("pipeline", "classifiers", "trainer", "jobs"):
        for path in (ROOT / package).rglob("*.py"):
            assert not forbidden.search(path.read_text(encoding="utf-8")), path


# Numba's cache looks at the file of the function that it compiled and at no other, so the kernel stays in one.
ONE_KERNEL = "kernel.py"


def test_no_file_needs_minutes_of_scrolling() -> None:
    for package in ("pipeline", "classifiers", "trainer", "jobs", "tests", "benchmarks"):
        for path in (ROOT / package).rglob("*.py"):
            if path.name != ONE_KERNEL:
                assert len(path.read_text(encoding="utf-8").splitlines()) <= 600, path


def of_ours() -> dict[str, Path]:
    """Modules by name."""
    paths = [
        path for package in ("pipeline", "classifiers", "trainer", "jobs") for path in (ROOT / package).rglob("*.py")
    ]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def is_main(node: ast.AST) -> bool:
    """`if __name__ == "__main__":`, which no import enters."""
    return isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)


def imported_with(path: Path, modules: dict[str, Path]) -> set[str]:
    """Modules of ours that importing this one imports by its own lines, those inside of functions left out."""
    found = set()
    waiting: list[ast.AST] = [tree(path)]
    while waiting:
        for node in ast.iter_child_nodes(waiting.pop()):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                parts = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= parts & modules.keys() or {node.module}
            elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not is_main(node):
                waiting.append(node)
    return found & modules.keys()


def test_imports_have_no_circles() -> None:
    """Circles work or fail by where one enters them, and Spark's workers enter anywhere."""
    modules = of_ours()
    graph = {name: imported_with(path, modules) for name, path in modules.items()}
    assert len(graph["jobs.run"]) > 5 and graph["trainer.train"] >= {"trainer.plan", "trainer.attention"}
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle
