"""One sample and one finished run of it, shared by the tests of jobs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.run import run
from jobs.runs import Run
from pipeline.recipe import Recipe, load_recipe
from pipeline.sample import write_sample


@pytest.fixture(scope="session")
def sample_web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("web")
    write_sample(folder)
    return folder


@pytest.fixture(scope="session")
def tolerant() -> Recipe:
    recipe = load_recipe("default")
    return recipe.model_copy(update={"inputs": recipe.inputs.model_copy(update={"tolerate": 1.0})})


@pytest.fixture(scope="session")
def finished(sample_web: Path, tolerant: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    output = tmp_path_factory.mktemp("runs") / "finished"
    yield run(tolerant, [str(sample_web)], str(output), master="local[2]")
