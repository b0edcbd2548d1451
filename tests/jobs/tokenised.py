"""Texts, Parquet files of them, and what token folders hold, for tests of tokens."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.tokenizer.files import TokenizerFile
from trainer.shards import TokenStore

WORDS = (
    "the quick brown fox jumps over a lazy dog and sees 1234 cats; it's \u00fcber na\u00efve, isn't it?\n\n\tYes: "
    "\u65e5\u672c\u8a9e\u306e\u6587\u7ae0\u3067\u3059\u3002 \u041f\u0440\u0438\u0432\u0435\u0442, "
    "\u043c\u0438\u0440! \U0001f600 <|endoftext|> "
)


def texts_of(n: int, seed: int) -> list[str]:
    """Texts of different lengths."""
    rng = np.random.default_rng(seed)
    words = WORDS.split(" ")
    return [" ".join(words[i] for i in rng.integers(0, len(words), k)) for k in rng.geometric(0.02, n)]


def parquet(path: Path, texts: list[str | None], **columns: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    row_group = columns.pop("row_group", 50)
    table = pa.table({"text": pa.array(texts, pa.string()), **columns})
    pq.write_table(table, path, compression="zstd", row_group_size=row_group)
    return str(path)


def decoded(folder: str | Path, tokenizer: TokenizerFile) -> list[str]:
    """Every document of a folder, decoded by `tokenizers`, each ended by the end-of-text token and holding no other."""
    build, texts = tokenizer.build(), []
    store = TokenStore.open(folder, verify=True)
    for i in range(len(store)):
        ids = store.doc(i).tolist()
        assert ids[-1] == tokenizer.eos and tokenizer.eos not in ids[:-1]
        texts.append(build.decode(ids[:-1], skip_special_tokens=False))
    return texts


def rows_of(folder: str | Path) -> list[dict[str, Any]]:
    return [r for path in sorted(Path(folder).glob("*.docs.parquet")) for r in pq.read_table(path).to_pylist()]


def files_of(folder: str | Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(Path(folder).iterdir()) if p.name != "tokens.json"}


def other_words(tokenizer: TokenizerFile, folder: Path) -> Path:
    """The same tokenizer in other words."""
    path = folder / "other.json"
    path.write_text(json.dumps(json.loads(tokenizer.body), indent=3))
    return path
