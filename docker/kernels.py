"""Compiles every kernel once, so that no container has to: Numba keeps them in NUMBA_CACHE_DIR. Two at a time, since each
takes a core for long."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pyarrow as pa

QUESTION = "who keeps the lamp of the mill"


def signals() -> None:
    """Statistics of texts, line edits."""
    from pipeline.recipe import load_recipe
    from pipeline.signals import measure

    measure(pa.array(["a text"]), load_recipe("default"))


def others() -> None:
    """All else."""
    from classifiers.scorer import Scorer
    from pipeline.contamination.local import search
    from pipeline.dedup.local import deduplicate, repeated_lines
    from pipeline.recipe import load_recipe
    from pipeline.signals.pii import Detector

    texts = pa.array(["A text. Of two sentences, of lines\nand of a Café."])
    Scorer(load_recipe("default").score).score(texts, pa.array(["en"]))
    deduplicate(["one text of five words", "one text of five words here"])
    repeated_lines(["a", "b"], 1)
    Detector().find(pa.array(["call (212) 555-0188"]))
    search(pa.array([QUESTION]), [{"item": "1", "question": QUESTION}])


if __name__ == "__main__":
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        for part in [pool.submit(signals), pool.submit(others)]:
            part.result()
