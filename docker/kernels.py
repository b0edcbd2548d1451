"""Compiles every kernel once, so that no container has to: Numba keeps them in NUMBA_CACHE_DIR."""

import pyarrow as pa

from classifiers.scorer import Scorer
from pipeline.contamination.local import search
from pipeline.dedup.local import deduplicate, repeated_lines
from pipeline.recipe import load_recipe
from pipeline.signals import measure
from pipeline.signals.pii import Detector

QUESTION = "who keeps the lamp of the mill"

recipe = load_recipe("default")
measure(pa.array(["a text"]), recipe)
Scorer(recipe.score).score(pa.array(["A text. Of two sentences, of lines\nand of a Café."]), pa.array(["en"]))
deduplicate(["one text of five words", "one text of five words here"])
repeated_lines(["a", "b"], 1)
Detector().find(pa.array(["call (212) 555-0188"]))
search(pa.array([QUESTION]), [{"item": "1", "question": QUESTION}])
