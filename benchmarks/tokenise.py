"""Tokens a second from zstd Parquet to shards, beside datatrove's tokeniser and a pool of processes over `tokenizers`.

    python -m venv peer && peer/bin/pip install 'datatrove[processing,io]'
    python -m benchmarks.tokenise --peer-python peer/bin/python --rounds 5 > benchmarks/tokenise.txt

Whole processes, started in turn, from the same Parquet files (zstd) with the same tokenizer: reading, encoding, all checks
of ours, writing, and starting the interpreter. The text is real: what is extracted of every page of the sample crawl,
before any rule, with the labelled texts and gold texts of CRAWLMILL_DATA. That is less than a second's work for the
fastest, so that ours also reads `--copies` copies of it; the figure for one copy is given beside it, since an encoder that
remembers words may gain by seeing them again. The tokenizer is a byte-level BPE of 32,000 tokens trained on an eighth.

The pool is what Megatron-LM's preprocess_data.py does, written anew: `Pool.imap` over documents in chunks of 32, one
`tokenizers` encoder a process, lists of ids back to the parent, which writes .bin and .idx. datatrove is its
ParquetReader and DocumentTokenizer with its own executor, without its shuffle, which would be a second pass. Both have
as many processes as there are cores.

M tokens/s: by the clock. Per CPU second: by the processor time of the process and its children, which other work on the
machine changes less.
"""

import argparse
import gzip
import json
import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("CRAWLMILL_DATA", ROOT.parent / "shared" / "data"))
PEER = Path(__file__).with_name("tokenise_peer.py")
FILES = 4
VOCABULARY = 32_000
PARAGRAPHS = 3000  # characters of a book that are one document
OURS = "import typer; from jobs.token_commands import tokenize; typer.run(tokenize)"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--peer-python", required=True, help="interpreter that has datatrove and tokenizers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--copies", type=int, default=12, help="copies of the text that ours reads")
    parser.add_argument(
        "--run", type=Path, help="run folder over the sample crawl, to extract it once for several times"
    )
    parser.add_argument("--work", type=Path, help="where to work; a temporary folder if not given")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        measure(options, work)


def measure(options: argparse.Namespace, work: Path) -> None:
    once, copies = corpus(options.run or extracted(work), work, options.copies)
    tokenizer = trained(once, work)
    (work / "nothing").mkdir(exist_ok=True)
    pq.write_table(
        pa.table({"id": pa.array([], pa.string()), "text": pa.array([], pa.string())}), work / "nothing/0.parquet"
    )
    peer = [str(Path(options.peer_python).absolute()), "-P", str(PEER)]
    ours = [sys.executable, "-c", OURS]
    contenders = {
        "crawlmill": (ours, copies),
        "crawlmill, one copy": (ours, once),
        "crawlmill, nothing": (ours, work / "nothing"),
        "datatrove": ([*peer, "datatrove"], once),
        "pool": ([*peer, "pool"], once),
    }
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    tokens: dict[str, int] = {}
    for _ in range(options.rounds):
        for name, (command, folder) in contenders.items():
            output = work / "out" / name.replace(" ", "-").replace(",", "")
            shutil.rmtree(output, ignore_errors=True)
            took[name].append(timed([*command, str(folder), "--tokenizer", str(tokenizer), "--output", str(output)]))
            tokens[name] = sum(p.stat().st_size for p in output.rglob("*") if p.suffix in (".bin", ".ds")) // 2
    same_tokens(work / "out", tokens)
    report(options, once, copies, took, tokens)


def timed(command: list[str]) -> tuple[float, float]:
    """Seconds by the clock and of the processor that a command takes."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def same_tokens(out: Path, tokens: dict[str, int]) -> None:
    """Whether the pool wrote our very bytes, and datatrove as many tokens."""
    for path in sorted((out / "pool").iterdir()):
        if path.read_bytes() != (out / "crawlmill-one-copy" / path.name).read_bytes():
            sys.exit(f"{path} is not what crawlmill wrote")
    if not tokens["pool"] == tokens["datatrove"] == tokens["crawlmill, one copy"]:
        sys.exit(f"not all wrote the same number of tokens: {tokens}")


def report(
    options: argparse.Namespace,
    once: Path,
    copies: Path,
    took: dict[str, list[tuple[float, float]]],
    tokens: dict[str, int],
) -> None:
    text = sum(row.as_py() or 0 for row in pc.binary_length(ds.dataset(once).to_table(["text"]).column("text")))
    documents = ds.dataset(once).count_rows()
    print(
        f"{documents:,} documents, {text / 1e6:.1f} MB of text, {tokens['pool']:,} tokens; {options.copies} copies for ours"
    )
    said = subprocess.run(
        [options.peer_python, "-P", str(PEER), "versions"], capture_output=True, text=True
    ).stdout.strip()
    print(f"gigatoken {version('gigatoken')}, tokenizers {version('tokenizers')}; peers: {said}")
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {options.rounds} rounds, medians"
    )
    print(f"{'':<22}{'seconds':>9}{'M tokens/s':>12}{'(least, most)':>18}{'per CPU second':>16}{'ratio':>8}")
    start, start_cpu = (statistics.median(column) for column in zip(*took["crawlmill, nothing"], strict=True))
    rates = {}
    for name, times in took.items():
        clock, cpu = (statistics.median(column) for column in zip(*times, strict=True))
        rates[name] = tokens[name] / clock / 1e6
        spread = sorted(tokens[name] / seconds / 1e6 for seconds, _ in times)
        low_high = f"({spread[0]:.2f}, {spread[-1]:.2f})"
        ratio = f"{rates['crawlmill'] / rates[name]:.1f}" if rates[name] else ""
        per = tokens[name] / cpu / 1e6
        print(f"{name:<22}{clock:>9.2f}{rates[name]:>12.2f}{low_high:>18}{per:>16.2f}{ratio:>8}")
    for name in ("crawlmill", "crawlmill, one copy"):
        clock, cpu = (statistics.median(column) for column in zip(*took[name], strict=True))
        print(f"{name} without the start of the process: {tokens[name] / (clock - start) / 1e6:.1f} M tokens/s, "
              f"{tokens[name] / (cpu - start_cpu) / 1e6:.1f} M per CPU second")  # fmt: skip
    print("crawlmill wrote the bytes of the pool's .bin and .idx")


# The text


def extracted(work: Path) -> Path:
    """A run over the sample crawl, up to the extracted text."""
    command = [sys.executable, "-m", "jobs.cli", "run", "--input", str(DATA / "crawl"), "--output", str(work / "run")]
    subprocess.run([*command, "--upto", "extract"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return work / "run"


def corpus(run: Path, work: Path, copies: int) -> tuple[Path, Path]:
    """Folders with the text once, and in copies."""
    texts = [*pages(run), *labelled()]
    step = 7919  # a prime: sources stand mixed, in every file alike
    order = [(i * step) % len(texts) for i in range(len(texts))]
    table = pa.table({"id": [str(i) for i in order], "text": [texts[i] for i in order]})
    folders = work / "once", work / "copies"
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    each = -(-table.num_rows // FILES)
    for i in range(FILES):
        path = folders[0] / f"{i:02d}.parquet"
        pq.write_table(table.slice(i * each, each), path, compression="zstd", row_group_size=8192)
        for copy in range(copies):
            (folders[1] / f"{copy:02d}-{path.name}").hardlink_to(path)
    return folders


def pages(run: Path) -> Iterator[str]:
    found = ds.dataset(run / "documents", format="parquet").to_table(columns=["doc_id", "text"]).sort_by("doc_id")
    return (text for text in found.column("text").to_pylist() if text)


def labelled() -> Iterator[str]:
    for path in sorted([*(DATA / "labelled/text").glob("*.gz"), *(DATA / "labelled/wiki").glob("wikitext*.gz")]):
        yield from paragraphs(gzip.decompress(path.read_bytes()).decode("utf-8", "replace"))
    for path in sorted((DATA / "labelled/text").glob("*.zip")):
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                if text := archive.read(name).decode("utf-8", "replace"):
                    yield text
    for path in sorted((DATA / "gold").glob("*.gold.jsonl.gz")):
        for line in gzip.decompress(path.read_bytes()).decode().splitlines():
            if text := json.loads(line).get("gold_text"):
                yield text


def paragraphs(text: str) -> Iterator[str]:
    """A book in documents of some paragraphs each."""
    held = ""
    for part in re.split(r"(?<=\n)\r?\n", text):
        held += part
        if len(held) > PARAGRAPHS:
            yield held
            held = ""
    if held:
        yield held


def trained(folder: Path, work: Path) -> Path:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    texts = ds.dataset(folder).to_table(columns=["text"]).column("text").to_pylist()[::8]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    path = work / "tokenizer.json"
    tokenizer.save(str(path))
    return path


if __name__ == "__main__":
    main()
