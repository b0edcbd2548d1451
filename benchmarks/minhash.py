"""MinHash signatures a second on one core: crawlmill's beside datatrove's, rensa's and datasketch's.

    python -m venv peer && peer/bin/pip install 'datatrove[processing,io]' spacy rensa datasketch
    python benchmarks/minhash.py --peer-python peer/bin/python > benchmarks/minhash.txt

Real texts (the WET twin of the sample crawl, read where CRAWLMILL_DATA points), each followed by a copy in which some
words are replaced (seeded). All make 112 hashes of 5-grams of words. Each contender runs in a process of its own, bound
to one core, and reports the processor time of a round over all texts; the rounds of all are taken in turn.

crawlmill and datatrove take texts. rensa and datasketch take n-grams as strings, made in Python with what is fast there
(NFD, lower case, marks and punctuation dropped by `str.translate`, split, joined); rows say what was given. Words of
scripts without spaces are characters in crawlmill alone: it has more n-grams to hash.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections.abc import Callable
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("CRAWLMILL_DATA", ROOT.parent / "shared" / "data"))
BANDS, ROWS, NGRAM = 14, 8, 5
HASHES = BANDS * ROWS
TEXTS, NGRAMS, NUMBERS = "texts", "n-grams", "their hashes"
# Name, what it is given, how it is used; the first is what the others are measured against.
CONTENDERS = [
    ("crawlmill", TEXTS, "MinHasher.sketch, signatures alone"),
    ("crawlmill, both", TEXTS, "the same with sorted sets of n-grams"),
    ("datatrove", TEXTS, "get_shingles, get_signature"),
    ("rensa", TEXTS, "n-grams in Python, then RMinHash in one batch"),
    ("datasketch", TEXTS, "n-grams in Python, then update_batch with SHA-1"),
    ("rensa", NGRAMS, "RMinHash in one batch"),
    ("rensa, one by one", NGRAMS, "RMinHash.update, digest"),
    ("rensa, C", NGRAMS, "CMinHash.update, digest"),
    ("rensa, Rho", NGRAMS, "its Rho sketch in one batch"),
    ("datasketch", NGRAMS, "update_batch with SHA-1"),
    ("crawlmill", NUMBERS, "kernel `sign`, on a copy"),
    ("rensa", NUMBERS, "RMinHash in one batch, from arrays"),
]


class Work(NamedTuple):
    """What a contender does: the signatures of all texts, and their sets of n-grams for the truth."""

    signatures: Callable[[], Any]
    sets: Callable[[], list[set]]


def pages(limit: int) -> list[str]:
    from warcio.archiveiterator import ArchiveIterator

    texts = []
    for path in sorted((DATA / "crawl/wet").glob("*.gz")):
        with path.open("rb") as stream:
            for record in ArchiveIterator(stream):
                if record.rec_type == "conversion":
                    texts.append(record.content_stream().read().decode("utf-8"))
    if not texts:
        raise SystemExit(f"no WET files under {DATA / 'crawl/wet'} (set CRAWLMILL_DATA)")
    return [text for text in texts if len(text.split()) >= 50][:limit]


def edited(text: str, draw: random.Random) -> str:
    """The text with up to 6 % of its words replaced by others of its own."""
    words = text.split(" ")
    share = draw.random() * 0.06
    return " ".join(draw.choice(words) if draw.random() < share else word for word in words)


def unwanted() -> dict[int, None]:
    categories = ((point, unicodedata.category(chr(point))) for point in range(0x20000))
    return {point: None for point, name in categories if name[0] == "P" or name in ("Mn", "Me", "Sk", "Cf")}


def ngrams_of(text: str, dropped: dict[int, None]) -> list[str]:
    words = unicodedata.normalize("NFD", text).lower().translate(dropped).split()
    n = min(NGRAM, len(words))
    return [" ".join(ngram) for ngram in zip(*(words[i:] for i in range(n)), strict=False)]


def ours(name: str, given: str, texts: list[str]) -> Work:
    import numpy as np
    import pyarrow as pa
    from numba import njit

    from pipeline.dedup import kernel, minhash

    array, hasher = pa.array(texts), minhash.MinHasher(ngram=NGRAM, hashes=HASHES)
    known = hasher.sketch(array)
    at = known.offsets

    @njit
    def sign_all(ngrams, factors, terms, out):  # type: ignore[no-untyped-def]
        for row in range(len(out)):
            kernel.sign(ngrams[at[row] : at[row + 1]], at[row + 1] - at[row], factors, terms, out[row])
        return out

    def sign() -> np.ndarray:
        out = np.full_like(known.signatures, kernel.EMPTY)
        return sign_all(known.ngrams.copy(), *minhash.permutations(HASHES, 1), out)

    return Work(
        sign if given == NUMBERS else lambda: hasher.sketch(array, ngrams=name.endswith("both")).signatures,
        lambda: [set(known.ngrams[a:b].tolist()) for a, b in pairwise(at)],
    )


def datatrove(texts: list[str]) -> Work:
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature

    config = MinhashConfig(n_grams=NGRAM, num_buckets=BANDS, hashes_per_bucket=ROWS)
    step = MinhashDedupSignature(tempfile.gettempdir(), config)
    return Work(
        lambda: [step.get_signature(step.get_shingles(text)) for text in texts],
        lambda: [set(step.get_shingles(text).ravel().tolist()) for text in texts],
    )


def rensa_batch(name: str) -> Callable[[list[list[str]]], Any]:
    import rensa

    def one_by_one(kind: Any, ngrams: list[str]) -> list[int]:
        sketch = kind(HASHES, 1)
        sketch.update(ngrams)
        return sketch.digest()

    if name == "rensa, one by one":
        return lambda sets: [one_by_one(rensa.RMinHash, ngrams) for ngrams in sets]
    if name == "rensa, C":
        return lambda sets: [one_by_one(rensa.CMinHash, ngrams) for ngrams in sets]
    if name == "rensa, Rho":
        return lambda sets: rensa.RMinHash.digest_matrix_from_token_sets_rho(sets, HASHES, 1)
    return lambda sets: rensa.RMinHash.digest_matrix_from_token_sets(sets, HASHES, 1)


def datasketch_batch(sets: list[list[str]]) -> Any:
    from datasketch import MinHash

    found = []
    for ngrams in sets:
        sketch = MinHash(num_perm=HASHES, seed=1)
        sketch.update_batch([ngram.encode() for ngram in ngrams])
        found.append(sketch.hashvalues)
    return found


def rensa_numbers(sets: list[list[str]]) -> Callable[[], Any]:
    import numpy as np
    import rensa

    hashed = [np.array(row, np.uint64) for row in rensa.RMinHash.hash_token_sets(sets)]
    flat = np.concatenate(hashed)
    offsets = np.cumsum([0] + [len(row) for row in hashed]).astype(np.uint64)
    return lambda: rensa.RMinHash.digest_matrix_from_flat_token_hashes(flat, offsets, HASHES, 1)


def work(name: str, given: str, texts: list[str]) -> Work:
    """The work of one contender; nothing of the others is imported."""
    if name.startswith("crawlmill"):
        return ours(name, given, texts)
    if name == "datatrove":
        return datatrove(texts)
    dropped = unwanted()
    sets = [ngrams_of(text, dropped) for text in texts]
    if given == NUMBERS:
        return Work(rensa_numbers(sets), lambda: [set(ngrams) for ngrams in sets])
    batch = datasketch_batch if name == "datasketch" else rensa_batch(name)
    return Work(
        lambda: batch(sets if given == NGRAMS else [ngrams_of(text, dropped) for text in texts]),
        lambda: [set(ngrams) for ngrams in sets],
    )


def errors_of(done: Work) -> tuple[float, float]:
    """Root of the mean square of estimated less true similarity, each text with its edited copy; and what theory says."""
    found, sets = done.signatures(), done.sets()
    rows = found.to_rows() if hasattr(found, "to_rows") else found  # rensa's matrix
    # datatrove's signatures are lists of bands
    signatures = [list(chain(*row)) if isinstance(row[0], list) else list(map(int, row)) for row in rows]
    squares, variances = [], []
    for i in range(0, len(sets), 2):
        truth = len(sets[i] & sets[i + 1]) / max(1, len(sets[i] | sets[i + 1]))
        equal = sum(a == b for a, b in zip(signatures[i], signatures[i + 1], strict=True))
        squares.append((equal / HASHES - truth) ** 2)
        variances.append(truth * (1 - truth) / HASHES)
    return statistics.mean(squares) ** 0.5, statistics.mean(variances) ** 0.5


def serve(number: int, folder: Path) -> None:
    """Warms up, then times one round for each line on standard input."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    name, given, _ = CONTENDERS[number]
    done = work(name, given, json.loads((folder / "texts.json").read_text()))
    print(json.dumps({"errors": errors_of(done)}), flush=True)
    for _ in sys.stdin:
        start = time.process_time()
        repeats = 0
        while time.process_time() - start < 0.2:
            done.signatures()
            repeats += 1
        print(json.dumps({"s": (time.process_time() - start) / repeats}), flush=True)


def answer(process: subprocess.Popen, line: str) -> dict:
    if process.stdin is None or process.stdout is None:
        raise SystemExit("a contender was started without pipes")
    process.stdin.write(line)
    process.stdin.flush()
    reply = process.stdout.readline()
    if not reply:
        raise SystemExit(f"a contender stopped: {process.args!r}")
    return json.loads(reply)


def versions(python: str) -> str:
    names = ("datatrove", "rensa", "datasketch", "numba")
    code = f"""import importlib.metadata as m
found = {{d.name: d.version for d in m.distributions()}}
print(', '.join(f'{{n}} {{found[n]}}' for n in {names!r} if n in found))"""
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def main() -> None:
    """Runs all contenders and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peer-python", help="interpreter with datatrove, rensa and datasketch")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options.serve, options.folder)
        return
    if options.peer_python:  # not resolved: an environment's interpreter is a link
        options.peer_python = str(Path(options.peer_python).absolute())
    draw = random.Random(1)
    texts = [text for page in pages(options.pages) for text in (page, edited(page, draw))]
    chosen = [i for i, (name, _, _) in enumerate(CONTENDERS) if options.peer_python or name.startswith("crawlmill")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"}
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "texts.json").write_text(json.dumps(texts))

        def start(number: int) -> subprocess.Popen:
            own = CONTENDERS[number][0].startswith("crawlmill")
            command = [sys.executable if own else options.peer_python, __file__, "--serve", str(number)]
            return subprocess.Popen(
                [*command, "--folder", folder],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
                cwd=ROOT,
            )

        running = {number: start(number) for number in chosen}
        errors = {number: answer(process, "")["errors"] for number, process in running.items()}
        taken: dict[int, list[float]] = {number: [] for number in chosen}
        for turn in range(options.rounds):
            for number in chosen[turn % len(chosen) :] + chosen[: turn % len(chosen)]:
                taken[number].append(answer(running[number], "\n")["s"])
        for process in running.values():
            process.communicate()

    print(" ".join(["python", "benchmarks/minhash.py", *sys.argv[1:]]))
    print(f"{processor()}, {os.cpu_count()} cores shared with other work: compare ratios, not runs")
    print("; ".join(versions(python) for python in (sys.executable, options.peer_python) if python))
    print(f"\n{len(texts)} texts, {sum(map(len, texts)) / len(texts):,.0f} characters each, {options.rounds} rounds;")
    print(f"{HASHES} hashes of {NGRAM}-grams of words, one core, processor time, medians\n")
    print(f"{'contender':20}{'given':14}{'texts/s':>9}{'us a text':>11}{'ratio':>8}{'error':>8}{'theory':>8}  how")
    for number in chosen:
        name, given, how = CONTENDERS[number]
        seconds = statistics.median(taken[number]) / len(texts)
        ratio = statistics.median(a / b for a, b in zip(taken[number], taken[0], strict=True))
        speed = f"{1 / seconds:>9,.0f}{seconds * 1e6:>11,.1f}{ratio:>8.2f}"
        error, theory = errors[number]
        print(f"{name:20}{given:14}{speed}{error:>8.4f}{theory:>8.4f}  {how}")
    print(
        "\nratio: time over that of the first row in the same round. error: root mean square of estimated less true"
        "\nsimilarity of each text and its edited copy, both by the n-grams of the contender itself. theory: what it is"
        "\nto be with 112 independent hashes."
    )


if __name__ == "__main__":
    main()
