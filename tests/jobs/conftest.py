"""What tests of jobs share: one sample, one finished run of it, one small tokenizer and one folder of tokens."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenised import WORDS, parquet, texts_of
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from jobs.run import run
from jobs.runs import Run
from jobs.tokenise import tokenise
from pipeline.recipe import Recipe, load_recipe
from pipeline.sample import write_sample
from pipeline.tokenizer.files import TokenizerFile, load


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


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TokenizerFile:
    """A small byte-level tokenizer."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
    made.train_from_iterator([WORDS.replace("<|endoftext|>", "")] * 20, trainer)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(path))
    return load(path)


@pytest.fixture(scope="session")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three files, the second without rows."""
    folder = tmp_path_factory.mktemp("three")
    parquet(folder / "b.parquet", texts_of(120, 2), row_group=17)
    parquet(folder / "c.parquet", [])
    parquet(folder / "d.parquet", [*texts_of(200, 3), None, ""], row_group=1000)
    (folder / "_SUCCESS").touch()
    (folder / "_drafts.parquet").write_bytes(b"not Parquet")
    return folder


@pytest.fixture(scope="session")
def whole(three: Path, tokenizer: TokenizerFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What becomes of them."""
    output = tmp_path_factory.mktemp("whole") / "tokens"
    tokenise([str(three)], str(output), tokenizer, source="books", extra=("ds", "npy"))
    return output
