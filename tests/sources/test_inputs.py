"""Inputs: patterns to files and splits, with errors that name what is missing."""

from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.sources.inputs import InputFile, expand, open_input, splits


def test_each_file_once_and_sorted(tmp_path: Path) -> None:
    for name in ("b.warc.gz", "a.warc", "notes.txt", "deep/c.arc.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    found = expand([str(tmp_path), f"{tmp_path}/*.warc*", f"{tmp_path}/deep/../a.warc"])
    assert [Path(f.path).name for f in found] == ["a.warc", "b.warc.gz", "c.arc.gz"]
    assert open_input(found[0].path).read() == b"12345"


def test_errors_name_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing-here.*no such file"):
        expand([str(tmp_path / "nothing-here")])
    with pytest.raises(InputError, match="holds no archives"):
        expand([str(tmp_path)])


def test_splits_cover_a_file() -> None:
    parts = splits([InputFile("a", 1001, None), InputFile("b", None, None)], 300)
    assert [(p.start, p.end) for p in parts] == [(0, 250), (250, 500), (500, 750), (750, 1001), (0, None)]
