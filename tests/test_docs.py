"""The documentation is true: its code runs, its recipe loads, its tables are the tables."""

import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_args

import pytest
import yaml

from classifiers.training import TrainingOptions
from pipeline.contamination.benchmark import load_benchmarks
from pipeline.contamination.options import Decontamination, Evidence
from pipeline.recipe import load_recipe, parse_recipe, published_recipes
from pipeline.sample import TRAIN
from pipeline.scores import MODELS, HeadOptions, QualityOptions, Scoring, published
from pipeline.signals.pii import KINDS, NAME_KINDS
from pipeline.sources.documents import INFLATED, STREAM
from pipeline.sources.options import CodeGate, Fields, Format
from pipeline.sources.reading import BINARY, DISAMBIGUATION, REDIRECT
from pipeline.sources.wiki_pages import OTHER_NAMESPACE
from trainer import config as training_config

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md"]


REASONS = (REDIRECT, DISAMBIGUATION, BINARY, OTHER_NAMESPACE, INFLATED, STREAM, "source.no_text", "same_record")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


CODE = [(page.name, i, code) for page in PAGES for i, code in enumerate(blocks(page, "python"))]


@pytest.mark.parametrize(("page", "number", "code"), CODE, ids=[f"{p}-{i}" for p, i, _ in CODE])
def test_python_in_the_docs_runs(page: str, number: int, code: str) -> None:
    exec(compile(code, f"{page}#{number}", "exec"), {"__name__": "docs"})


def test_the_recipe_in_the_docs_is_valid() -> None:
    (text,) = blocks(ROOT / "docs" / "recipes.md", "yaml")
    recipe = parse_recipe(text)
    assert dict(recipe.groups())["c4"].bounds["sentence_count"] == (3, None)


def test_the_dedup_options_in_the_docs_are_those_there_are() -> None:
    page = ROOT / "docs" / "deduplication.md"
    (text,) = blocks(page, "yaml")
    dedup = parse_recipe("name: docs\n" + text).dedup
    assert dedup.compares and dedup.cuts and dedup.upsample[100] == 8
    described = page.read_text(encoding="utf-8")
    assert all(f"`{option}`" in described for option in type(dedup.minhash).model_fields)


def test_the_kinds_of_personal_data_in_the_docs_are_those_there_are() -> None:
    page = ROOT / "docs" / "pii.md"
    (text,) = blocks(page, "yaml")
    assert set(parse_recipe("name: docs\n" + text).pii.mask) == set(KINDS)
    described = page.read_text(encoding="utf-8")
    assert all(f"`{kind}`" in described for kind in (*KINDS, *NAME_KINDS))


def test_the_decontamination_options_in_the_docs_are_those_there_are(tmp_path: Path) -> None:
    page = ROOT / "docs" / "decontamination.md"
    files, options = blocks(page, "yaml")
    (tmp_path / "benchmarks.yaml").write_text(files)
    assert [benchmark.name for benchmark in load_benchmarks(tmp_path / "benchmarks.yaml")] == ["mmlu", "gsm8k", "ours"]
    found = parse_recipe("name: docs\n" + options).decontaminate
    assert found == Decontamination()
    described = page.read_text(encoding="utf-8")
    names = {*Decontamination.model_fields, *Evidence.model_fields}
    assert all(f"`{option}`" in described or f"  {option}:" in described for option in names)


def test_the_scoring_options_in_the_docs_are_those_there_are() -> None:
    page = ROOT / "docs" / "classifiers.md"
    recipe_text, options = blocks(page, "yaml")
    recipe = parse_recipe("name: docs\n" + recipe_text)
    assert recipe.score.ranks and recipe.score.quality.keep.top == 0.5
    assert TrainingOptions.model_validate(yaml.safe_load(options)).quantise is not None
    described = page.read_text(encoding="utf-8")
    names = {*Scoring.model_fields, *HeadOptions.model_fields, *published(), *QualityOptions.model_fields} - {
        "max_chars"
    }
    assert all(name in described for name in names)
    assert all(f"`{path.stem}`" in described for path in MODELS.glob("*.ftz"))


def test_sources_are_described_as_they_are() -> None:
    page = ROOT / "docs" / "sources.md"
    described = page.read_text(encoding="utf-8")
    papers, notes = (parse_recipe(text) for text in blocks(page, "yaml"))
    assert papers.inputs.fields.text == ("body", "abstract") and notes.inputs.endings == (".txt", ".text")
    named = {*get_args(Format), *Fields.model_fields, *CodeGate.model_fields, *REASONS}
    assert not [name for name in named if f"`{name}`" not in described]
    commands = re.findall(r"^    crawlmill run --recipe (\w+) --input \S+ --output \S+$", described, re.MULTILINE)
    assert sorted(commands) == sorted(
        name for name in published_recipes() if load_recipe(name).inputs.format != "archive"
    )
    assert all(f"`{name}`" in described for names in Fields().model_dump().values() for name in names)


def test_every_shipped_recipe_is_described() -> None:
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in published_recipes())


def test_the_page_on_tables_is_made_from_the_schemas() -> None:
    from docs_tables import page

    assert (ROOT / "docs" / "tables.md").read_text(encoding="utf-8") == page()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_training_configs_in_the_docs_load_and_every_key_is_described(tmp_path: Path) -> None:
    page = ROOT / "docs" / "training.md"
    texts = blocks(page, "toml")
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.toml").write_text(text, encoding="utf-8")
        assert training_config.load(tmp_path / f"{number}.toml").phase
    assert (
        training_config.load(tmp_path / "0.toml", phases=tmp_path / f"{len(texts) - 1}.toml").data.batch_tokens
        == 524_288
    )
    (tmp_path / "sample.toml").write_text(TRAIN)
    assert training_config.load(tmp_path / "sample.toml").data.path == str(tmp_path.parent / "mixed")
    described = page.read_text(encoding="utf-8")
    for kind in (training_config.Config, *map(type, vars(training_config.Config()).values()), training_config.Phase):
        for field in fields(kind) if is_dataclass(kind) else ():
            assert f"`{field.name}`" in described, field.name
