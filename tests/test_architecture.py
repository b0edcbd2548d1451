"""The rules of the house that a machine can hold."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FORBIDDEN = {
    "pipeline": {"pyspark", "typer", "rich", "jobs", "classifiers", "trainer"},
    "classifiers": {"pyspark", "typer", "rich", "jobs", "trainer"},
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


IMPORT_EACH_FIRST = """
import importlib, os, sys
import numba, numpy, pyarrow, pydantic, typer  # what most of them need, once
for name in sys.argv[1:]:
    child = os.fork()
    if not child:
        try:
            importlib.import_module(name)
        except ImportError as error:
            print(name, error, file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(1)
"""


def test_every_module_can_be_the_first_that_is_imported() -> None:
    """Circles of imports work or fail by where one enters them, and Spark's workers enter anywhere."""
    paths = [
        path
        for package in ("pipeline", "classifiers", "trainer", "jobs")
        for path in sorted((ROOT / package).rglob("*.py"))
    ]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths]
    command = [sys.executable, "-c", IMPORT_EACH_FIRST, *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
