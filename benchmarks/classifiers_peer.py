"""datatrove's FastTextClassifierFilter, for `benchmarks/classifiers.py`, in an interpreter of its own.

Started with that interpreter and the path of a model, this file answers each JSON line on standard input with one:

    {"version": true}                     the version
    {"time": [text, ...], "label": L}     seconds of processor time for all of them, and the score of L for each
"""

import importlib.metadata
import json
import sys
import time


def main() -> None:
    """Answers until standard input ends."""
    from datatrove.data import Document
    from datatrove.pipeline.filters import FastTextClassifierFilter

    step = None
    for line in sys.stdin:
        asked = json.loads(line)
        if "version" in asked:
            reply = importlib.metadata.version("datatrove")
        else:
            if step is None:
                step = FastTextClassifierFilter(sys.argv[1], keep_labels=(asked["label"], 0.5), newline_replacement=" ")
                step.filter(Document(text="warm up", id="0"))
            documents = [Document(text=text, id=str(i)) for i, text in enumerate(asked["time"])]
            start = time.process_time()
            for document in documents:
                step.filter(document)
            took = time.process_time() - start
            scores = [float(d.metadata.get("__label__" + asked["label"], "nan")) for d in documents]
            reply = {"seconds": took, "scores": scores}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
