"""Shared fixtures. Real pages live outside the project: CRAWLMILL_DATA names their folder, and tests skip without it."""

import importlib
import os
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent

os.environ.setdefault("CRAWLMILL_REPORT", "0")
"""Commands that tests start write no reports, which take seconds, unless the test is about them."""


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """A lookup of real data by relative path (`shared_data("crawl")`) that skips the test where it is absent."""
    base = Path(os.environ.get("CRAWLMILL_DATA", ROOT.parent / "shared" / "data"))

    def find(relative: str) -> Path:
        path = base / relative
        if not path.exists():
            pytest.skip(f"real data not present: {relative} (set CRAWLMILL_DATA)")
        return path

    return find


@pytest.fixture(scope="session")
def peer() -> Callable[[str, str], ModuleType]:
    """A module of another maker's package, `peer("megatron-core", "megatron.core")`, of the extra `test`.

    Skips only where that package is not installed: one that is there and cannot be imported fails the test.
    """

    def find(package: str, module: str) -> ModuleType:
        try:
            version(package)
        except PackageNotFoundError:
            pytest.skip(f"{package} is not installed (extra `test`)")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(module)

    return find


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes have no readable name, and compressed ones hold the time: the processes of a run must find the same tests."""
    return argname if isinstance(val, bytes) else None
