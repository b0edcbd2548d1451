"""Shared fixtures. Real pages live outside the project: CRAWLMILL_DATA names their folder, and tests skip without it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


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
