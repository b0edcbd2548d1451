"""What runs in the process that trains: a job on standard input, a model in its folder. Run as a file, not imported.

It imports nothing of this project, so that the process starts at once and holds nothing but fastText. The job is
`{"trainer": module, "folder": where train.txt lies, "options": TrainingOptions}`; it leaves `model`.
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Trains one model."""
    job = json.load(sys.stdin)
    work, options = Path(job["folder"]), job["options"]
    module: Any = importlib.import_module(job["trainer"])
    given: dict[str, Any] = {
        "lr": options["lr"],
        "dim": options["dim"],
        "epoch": options["epoch"],
        "wordNgrams": options["word_ngrams"],
        "minn": options["min_n"],
        "maxn": options["max_n"],
        "bucket": options["bucket"],
        "minCount": options["min_count"],
        "loss": options["loss"],
    }
    examples, threads = str(work / "train.txt"), options["threads"]
    model = module.train_supervised(examples, **given, seed=options["seed"], thread=threads, verbose=0)
    if options["quantise"]:
        model.quantize(
            examples,
            lr=options["lr"],
            epoch=options["epoch"],
            thread=threads,
            verbose=0,
            **options["quantise"],
        )
    model.save_model(str(work / "model"))


if __name__ == "__main__":
    main()
