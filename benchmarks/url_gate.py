"""The URL gate with millions of domains, against datatrove's URLFilter, and what the shipped words hit.

    python -m venv peer && peer/bin/pip install 'datatrove[processing,io]'
    python benchmarks/url_gate.py --domains 5000000 --peer-python peer/bin/python > benchmarks/url_gate.txt

Domains and URLs are made up (seeded); a tenth of the URLs are blocked, hosts do not repeat within a round. Each
contender runs in a process of its own and reports its build or load time, the growth of its private memory, and the
median time a URL over the rounds; the rounds of all contenders are taken in turn. The peer gets the same domains and,
through its own arguments, the same words; its own lists are left out. Real URLs and UT1 domains are read where
CRAWLMILL_DATA points.
"""

import argparse
import gzip
import importlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("CRAWLMILL_DATA", ROOT.parent / "shared" / "data"))
WORDS = ROOT / "pipeline" / "recipes" / "urls" / "words.yaml"
BENIGN = ("press", "bank", "liste_bu", "child", "liste_blanche")
N_URLS = 20_000


def domain(number: int) -> str:
    return f"{(number * 2654435761) % 2**40:x}-{number % 977}.{('com', 'net', 'org', 'co.uk', 'de')[number % 5]}"


def make_urls(n_domains: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    urls = []
    for _ in range(N_URLS):
        blocked = draw.random() < 0.1
        name = domain(draw.randrange(n_domains) if blocked else n_domains + draw.randrange(10**9))
        path = "/".join(f"{draw.getrandbits(24):x}" for _ in range(3))
        urls.append(
            f"https://{draw.choice(('www.', '', 'a.b.'))}{name}/{path}/article-of-the-day.html?id={draw.random()}"
        )
    return urls


def private_mb() -> float:
    fields = dict(line.split(":") for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    return sum(int(fields[key].split()[0]) for key in ("Private_Clean", "Private_Dirty")) / 1000


def build(contender: str, listed: Path, words: dict[str, list[str]]) -> Callable[[str], object]:
    """A function that says of a URL whether it is blocked; imports of the contender only."""
    if contender == "datatrove":
        from datatrove.data import Document
        from datatrove.pipeline.filters.url_filter import URLFilter
        from tldextract import TLDExtract

        with listed.open() as lines:
            rules = URLFilter(
                extra_domains=lines,
                banned_words=words["hard"],
                soft_banned_words=words["soft"],
                banned_subwords=words["substrings"],
                use_integrated_lists=False,
            )
        rules.tldextractor = TLDExtract(suffix_list_urls=())  # the list that comes with it: no network
        return lambda url: rules.filter(Document(text="", id="", metadata={"url": url})) is not True
    if contender == "set":
        with listed.open() as lines:
            members = {line.strip() for line in lines}
        return lambda url: url.split("/", 3)[2] in members
    from pipeline.signals.urls import UrlRules

    cache = listed.parent / "cache" if contender == "crawlmill, cached" else None
    ours = UrlRules(domains=[listed], words=words, cache_dir=cache)
    return lambda url: bool(ours.check(url).hits)


def serve(contender: str, listed: Path, n_domains: int) -> None:
    """Builds, then times one round for each line on standard input."""
    words = json.loads((listed.parent / "words.json").read_text())
    importlib.import_module("datatrove.data" if contender == "datatrove" else "pipeline.signals.urls")
    before, start = private_mb(), time.perf_counter()
    check = build(contender, listed, words)
    check("https://warm.example/")
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "mb": private_mb() - before}), flush=True)
    for line in sys.stdin:
        urls = make_urls(n_domains, int(line))
        start = time.perf_counter()
        n_hits = sum(map(bool, map(check, urls)))
        print(json.dumps({"us": (time.perf_counter() - start) / len(urls) * 1e6, "hits": n_hits}), flush=True)


def ask(process: subprocess.Popen, line: str) -> str:
    if process.stdin is None or process.stdout is None:
        raise SystemExit("a contender was started without pipes")
    process.stdin.write(line)
    process.stdin.flush()
    return process.stdout.readline()


def speed(n_domains: int, rounds: int, peer_python: str | None) -> None:
    contenders = {"set": sys.executable, "crawlmill": sys.executable, "crawlmill, cached": sys.executable}
    if peer_python:
        contenders["datatrove"] = peer_python
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder, "domains")
        listed.write_text("".join(domain(number) + "\n" for number in range(n_domains)))
        (listed.parent / "words.json").write_text(json.dumps(shipped_words()))
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"}

        def start(name: str) -> tuple[subprocess.Popen, dict]:
            command = [contenders[name], __file__, "--serve", name, "--list", str(listed), "--domains", str(n_domains)]
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
            )
            first = ask(process, "")
            if not first:
                raise SystemExit(f"{name} did not start: {' '.join(command)}")
            return process, json.loads(first)

        once, first = start("crawlmill, cached")  # writes the cache; the one that is measured below maps it
        once.communicate()
        running = {name: start(name) for name in contenders}
        taken: dict[str, list[dict]] = {name: [] for name in contenders}
        for number in range(rounds):
            order = list(contenders)[number % len(contenders) :] + list(contenders)[: number % len(contenders)]
            for name in order:
                taken[name].append(json.loads(ask(running[name][0], f"{number}\n")))
        for process, _ in running.values():
            process.communicate()
        size = sum(path.stat().st_size for path in Path(folder, "cache").iterdir())

    print(f"{n_domains:,} domains, {rounds} rounds of {N_URLS:,} URLs, hosts not repeated")
    print(f"table: {size / n_domains:.1f} bytes a domain; first build with cache {first['seconds']:.1f} s")
    print(f"{'contender':20}{'ready, s':>10}{'private MB':>12}{'us a URL':>10}{'blocked':>10}{'ratio':>8}")
    for name, (_, ready) in running.items():
        ratio = statistics.median(r["us"] / o["us"] for r, o in zip(taken[name], taken["crawlmill"], strict=True))
        micros = statistics.median(r["us"] for r in taken[name])
        hits = sum(r["hits"] for r in taken[name]) / rounds / N_URLS
        print(f"{name:20}{ready['seconds']:>10.2f}{ready['mb']:>12.0f}{micros:>10.2f}{hits:>10.4f}{ratio:>8.2f}")
    print(
        "ratio: time a URL over crawlmill's in the same round. `set` only looks the whole host up: no rule, no suffix.\n"
    )


def shipped_words() -> dict[str, list[str]]:
    import yaml

    return yaml.safe_load(WORDS.read_text())


def coverage() -> None:
    from pipeline.signals.urls import UrlRules

    rules = UrlRules(words=WORDS)
    path = DATA / "labelled/urllists/ut1_domains.jsonl.gz"
    if not path.exists():
        print(f"no coverage: {path.name} is not there (set CRAWLMILL_DATA)")
        return
    total: Counter[str] = Counter()
    hits: Counter[str] = Counter()
    for line in gzip.decompress(path.read_bytes()).splitlines():
        entry = json.loads(line)
        total[entry["category"]] += 1
        hits[entry["category"]] += bool(rules.check(f"http://{entry['domain']}/").hits)
    print("shipped words on UT1 domains (bare domains, no paths); * should have no hit")
    for name in sorted(total, key=lambda name: (-hits[name] / total[name], name)):
        star = "*" if name in BENIGN else " "
        print(f"{star} {name:20}{total[name]:>8,}{hits[name]:>8,}{hits[name] / total[name]:>9.2%}")
    index = DATA / "crawl/index.jsonl.gz"
    urls = [json.loads(line)["url"] for line in gzip.decompress(index.read_bytes()).splitlines()]
    urls = [url for url in urls if ".invalid" not in url]
    found = [url for url in urls if rules.check(url).hits]
    print(f"\nURLs of the sample crawl: {len(urls):,}, hit {len(found)}")
    timing = []
    for _ in range(5):
        start = time.perf_counter()
        for url in urls:
            rules.check(url)
        timing.append((time.perf_counter() - start) / len(urls) * 1e6)
    print(f"words alone on them: {statistics.median(timing):.2f} us a URL")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domains", type=int, default=5_000_000)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--peer-python", help="interpreter that has datatrove; without it the peer is left out")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--list", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.list, options.domains)
        return
    speed(options.domains, options.rounds, options.peer_python)
    coverage()


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
