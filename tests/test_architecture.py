"""The rules of the house that a machine can hold."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FORBIDDEN = {
    "pipeline": {"pyspark", "typer", "rich", "jobs", "classifiers", "trainer"},
    "classifiers": {"jobs", "trainer"},
    "trainer": {"jobs", "classifiers"},
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_point_one_way(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        assert not imports(path) & FORBIDDEN[package], path


def test_nothing_depends_on_position_or_on_the_hash_seed() -> None:
    forbidden = re.compile(
        r"monotonically_increasing_id|(?<![\w.])hash\(|^import random|\.toPandas\(\)|\.collect\(\)", re.MULTILINE
    )
    for package in ("pipeline", "jobs"):
        for path in (ROOT / package).rglob("*.py"):
            assert not forbidden.search(path.read_text(encoding="utf-8")), path


# Numba's cache looks at the file of the function that it compiled and at no other, so the kernel stays in one.
ONE_KERNEL = "kernel.py"


def test_no_file_needs_minutes_of_scrolling() -> None:
    for package in ("pipeline", "jobs", "tests", "benchmarks"):
        for path in (ROOT / package).rglob("*.py"):
            if path.name != ONE_KERNEL:
                assert len(path.read_text(encoding="utf-8").splitlines()) <= 600, path
