"""Looking into folders of tokens and mixes: what they hold, whether it is what was written, where a token comes from."""

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jobs.store import RunFolder
from pipeline.errors import InputError, UsageError
from pipeline.tokenizer.encoding import Encoder
from pipeline.tokenizer.files import parse
from trainer.shards import Shard, ShardError, TokenStore, verify


def manifests(folder: RunFolder) -> list[dict[str, Any]]:
    """The manifests of all shards of a token folder, in order."""
    return [manifest for n in _shards(folder) if (manifest := folder.read_json(n)) is not None]


def _shards(folder: RunFolder) -> list[str]:
    return [name for name in folder.list("", ".json") if name.startswith("shard-")]


class Place(NamedTuple):
    """Where a token comes from: `row` is that of the table of documents, `position` the token's number in the document.

    `before`, `text` and `after` are what the tokens there say.
    """

    shard: str
    document: int
    row: dict[str, Any]
    position: int
    token: int
    before: str
    text: str
    after: str


def where(folder: str, shard: str, n: int, around: int = 40) -> Place:
    """Which document token `n` (from 0) of a shard belongs to, and the text around it: `around` tokens on either side.

    `folder` is of tokens or a mix, `shard` a shard of it by name or number: `shard-00003`, `3`, of a mix
    `pretrain/web/3`. Raises ShardError where there is no such token, UsageError where there is no such shard, InputError
    where the folder's tokenizer is not that of its tokens.
    """
    root = RunFolder(folder)
    inner, _, last = shard.strip("/").rpartition("/")
    last = f"shard-{int(last):05d}" if last.isascii() and last.isdigit() else last
    name = f"{inner}/{last}" if inner else last
    manifest = root.read_json(f"{name}.json")
    if manifest is None:
        raise UsageError(_no_shard(root, name))
    with tempfile.TemporaryDirectory() as near:
        prefix = Path(near, "shard")
        for suffix in (".bin", ".idx"):
            copied = root.local_copy(name + suffix, manifest["files"][suffix]["sha256"])
            prefix.with_suffix(suffix).symlink_to(copied.absolute())
        opened = Shard.open(prefix)
        opened.prefix = Path(folder, name)  # what errors call it
        document = opened.document_at(n)
        tokens = np.array(opened[document], np.uint32)
        position = n - int(opened.starts[document])
    row = root.read_table(f"{name}.docs.parquet").slice(document, 1).to_pylist()[0]
    facts, body = _tokenizer_of(root, inner)
    encoder = Encoder(parse(body, facts["eos_token"]), "tokenizers")
    parts = (
        tokens[max(0, position - around) : position],
        tokens[position : position + 1],
        tokens[position + 1 :][:around],
    )
    before, text, after = (encoder.decode(part).decode("utf-8", "replace") for part in parts)
    token = int(tokens[position])
    return Place(name, document, row, position + (row.get("first") or 0), token, before, text, after)


def run_of(place: Place, folder: str) -> str | None:
    """The run that made the document of a token, as the folder remembers it; None for documents of other Parquet files."""
    root = RunFolder(folder)
    if "tokens" not in place.row:
        return (root.read_json("tokens.json") or {}).get("run")
    for at in (root, RunFolder(_above(root))):
        mix = at.read_json("mix.json")
        if mix is not None:
            named = [entry for entries in mix["sources"].values() for entry in entries]
            return next((entry["run"] for entry in named if entry["folder"] == place.row["tokens"]), None)
    return None


def verified(folder: str) -> Iterator[dict[str, Any]]:
    """Compares every byte of a folder of tokens, or of a mix, with what was written; yields the manifest of each shard.

    Raises ShardError for what differs, and for shards that are missing, InputError for another tokenizer.json.
    """
    root = Path(folder)
    schedule = RunFolder(folder).read_json("schedule.json")
    folders = [root / name for name in folders_of(schedule)] if schedule is not None else [root]
    stores = [TokenStore.open(each) for each in folders]
    _tokenizer_of(RunFolder(folder), "")
    for store in stores:
        for shard in store.shards:
            verify(shard.prefix)
            _compare_rows(shard, store.tokenizer)
            yield shard.manifest or {}


def _compare_rows(shard: Shard, tokenizer: dict[str, Any]) -> None:
    """Whether tokens are of the vocabulary, and documents those of the table beside them."""
    rows = RunFolder(str(shard.prefix.parent)).read_table(f"{shard.prefix.name}.docs.parquet", ["n_tokens"])
    if not np.array_equal(rows.column("n_tokens").to_numpy(), shard.lengths):
        raise ShardError(f"{shard.prefix}.docs.parquet lists other documents than {shard.prefix}.idx; make it again")
    for start in range(0, len(shard.tokens), 1 << 24):
        part = shard.tokens[start : start + (1 << 24)]
        if int(part.max()) >= tokenizer["vocab_size"] or int(part.min()) < 0:
            raise ShardError(f"{shard.prefix}.bin holds tokens that its tokenizer does not have; make it again")


def folders_of(schedule: dict[str, Any]) -> list[str]:
    """The folders of shards that a schedule.json names, each once."""
    sources = [phase["sources"] for phase in schedule["phases"]] + [schedule.get("held_out", {})]
    return list(dict.fromkeys(entry["folder"] for of in sources for entry in of.values()))


def _no_shard(root: RunFolder, name: str) -> str:
    """What to say of a shard that is not there, by what is."""
    if root.local and not Path(root.path).is_dir():
        return f"there is no folder {root.path}"
    if shards := _shards(root):
        return f"{root.path} holds no shard {name}; its shards are 0 to {len(shards) - 1}"
    schedule = root.read_json("schedule.json")
    if schedule is not None:
        there = ", ".join(f"{folder}/0:TOKEN" for folder in folders_of(schedule)[:6])
        return f"{root.path} is a mix and holds no shard {name}; name the phase and the source, too, such as {there}"
    return f"{root.path} holds no tokens; name a shard as FOLDER/0:TOKEN, of a mix as FOLDER/PHASE/SOURCE/0:TOKEN"


def tokenizer_body(folder: RunFolder, facts: dict[str, Any]) -> bytes:
    """The tokenizer.json of a folder of tokens or a mix. Raises InputError where it is not the one that `facts` name."""
    body = folder.read_bytes("tokenizer.json")
    if body is None:
        raise InputError(f"{folder.path} holds no tokenizer.json; copy the folder as a whole")
    if hashlib.sha256(body).hexdigest() != facts["sha256"]:
        raise InputError(
            f"{folder.path}/tokenizer.json is not the one that its tokens were made with (SHA-256 "
            f"{facts['sha256'][:12]}…); copy that one there"
        )
    return body


def _tokenizer_of(root: RunFolder, inner: str) -> tuple[dict[str, Any], bytes]:
    """What is said of a folder's tokenizer, and its file: they stand in the folder, or two above a source of a mix."""
    for folder in [root, *([] if inner else [RunFolder(_above(root))])]:
        for name in ("tokens.json", "schedule.json"):
            said = folder.read_json(name)
            if said is not None:
                return said["tokenizer"], tokenizer_body(folder, said["tokenizer"])
    raise UsageError(f"{root.path} holds no tokens (neither tokens.json nor schedule.json)")


def _above(root: RunFolder) -> str:
    """The folder of the mix that a source of a phase lies in."""
    return "/".join(root.absolute().split("/")[:-2]) or "/"
