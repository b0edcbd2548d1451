"""Folders of tokens and mixes, looked into: which page a token came from, and whether all is as it was written."""

import shutil
from functools import partial
from pathlib import Path

import pytest
from tokenised import decoded, files_of, other_words, parquet, texts_of

from jobs.mix import mix
from jobs.runs import Run
from jobs.token_folders import verified, where
from jobs.tokenise import tokenise
from pipeline.errors import InputError, UsageError
from pipeline.mixing.options import parse_mix
from pipeline.tokenizer.files import TokenizerFile
from trainer.shards import ShardError, TokenStore


@pytest.mark.spark
def test_a_token_leads_to_the_page_it_came_from(finished: Run, tokenizer: TokenizerFile, tmp_path: Path) -> None:
    info = tokenise([finished.folder.path], str(tmp_path / "o"), tokenizer)
    curated = [finished.folder.read_table(n) for n in finished.folder.list("curated")]
    assert info["run"] == finished.folder.absolute() and info["totals"]["documents"] == sum(t.num_rows for t in curated)
    texts = [text for table in curated for text in table.column("text").to_pylist()]
    assert decoded(tmp_path / "o", tokenizer) == texts
    shard = TokenStore.open(tmp_path / "o").shards[0]
    for n in (0, len(shard.tokens) // 2, len(shard.tokens) - 1):
        place = where(str(tmp_path / "o"), "0", n)
        assert place == where(str(tmp_path / "o"), "shard-00000", n)
        page = finished.folder.read_table(place.row["file"]).slice(place.row["row"], 1).to_pylist()[0]
        names = ("id", "piece", "source", "language", "quality_bin", "topic", "warc_file", "warc_offset", "n_bytes")
        assert {name: place.row[name] for name in names} == {name: page[name] for name in names}
        text = place.before + place.text + place.after
        assert text.strip("\ufffd").removesuffix("<|endoftext|>") in page["text"]
        assert shard[place.document][place.position] == place.token == shard.tokens[n]
    with pytest.raises(ShardError, match="there is no token"):
        where(str(tmp_path / "o"), "0", len(shard.tokens))
    with pytest.raises(UsageError, match="holds no shard"):
        where(str(tmp_path / "o"), "77", 0)


def test_a_full_check_of_a_folder_sees_what_sizes_do_not_show(whole: Path, tmp_path: Path) -> None:
    for path in whole.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    body = bytearray((tmp_path / "shard-00002.docs.parquet").read_bytes())
    body[1000] ^= 1
    (tmp_path / "shard-00002.docs.parquet").write_bytes(bytes(body))
    checks = verified(str(tmp_path))
    assert next(checks)["documents"] == 120 and next(checks)["documents"] == 0
    with pytest.raises(ShardError, match=r"docs\.parquet is not what was written"):
        next(checks)


def test_another_tokenizer_beside_tokens_is_refused(
    whole: Path, tokenizer: TokenizerFile, three: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "o"
    shutil.copytree(whole, folder)
    (folder / "tokenizer.json").write_bytes(other_words(tokenizer, tmp_path).read_bytes())
    for look in (lambda: list(verified(str(folder))), lambda: where(str(folder), "0", 1)):
        with pytest.raises(InputError, match=r"o/tokenizer.json is not the one that its tokens were made with"):
            look()
    again = partial(tokenise, [str(three)], str(folder), tokenizer, source="books", extra=("ds", "npy"))
    again()
    assert files_of(folder) == files_of(whole)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"o holds no tokenizer.json"):
        list(verified(str(folder)))
    again()
    assert files_of(folder) == files_of(whole)


def test_a_shard_that_is_not_there_is_refused_with_those_that_are(whole: Path, tmp_path: Path) -> None:
    for folder, shard, said in (
        (whole, "7", "holds no shard shard-00007; its shards are 0 to 2"),
        (tmp_path, "0", "holds no tokens; name a shard as FOLDER/0:TOKEN"),
        (tmp_path / "no", "0", "there is no folder"),
    ):
        with pytest.raises(UsageError, match=said):
            where(str(folder), shard, 0)


MIX = """
name: two
seed: 3
sources: {a: a, b: b}
phases:
  - {name: early, tokens: 3001, weights: {a: 1, b: 1}}
  - {name: late, tokens: 1500, weights: {a: 2, b: 1}}
"""


def test_a_mix_is_checked_and_its_tokens_are_found(tokenizer: TokenizerFile, tmp_path: Path) -> None:
    for seed, name in enumerate("ab", 30):
        path = parquet(tmp_path / f"{name}.parquet", texts_of(60, seed))
        tokenise([path], str(tmp_path / name), tokenizer, source=name)
    mix(parse_mix(MIX), str(tmp_path / "mixed"), tmp_path)
    shards = list(verified(str(tmp_path / "mixed")))
    assert sum(shard["tokens"] for shard in shards) == 4501
    for folder in ("early/a", "late/b"):
        shard = TokenStore.open(tmp_path / "mixed" / folder).shards[0]
        for n in (0, 400, len(shard.tokens) - 1):
            place = where(str(tmp_path / "mixed"), f"{folder}/0", n)
            assert place == where(str(tmp_path / "mixed" / folder), "0", n)._replace(shard=place.shard)
            assert place.row["source"] == folder[-1] and place.token == shard.tokens[n]
            origin = TokenStore.open(tmp_path / folder[-1]).shards[0][place.row["document"]]
            assert origin[place.position] == place.token
    with pytest.raises(
        UsageError, match=r"is a mix and holds no shard early/shard-00000; .* early/a/0:TOKEN, early/b/0"
    ):
        where(str(tmp_path / "mixed"), "early/0", 0)
    path = tmp_path / "mixed" / "early" / "a" / "shard-00000.bin"
    path.write_bytes(path.read_bytes()[:-2] + b"\x07\x00")
    with pytest.raises(ShardError, match="is not what was written"):
        list(verified(str(tmp_path / "mixed")))
