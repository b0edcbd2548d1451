"""datatrove's FineWeb example up to its filters and PII, as `benchmarks/throughput.py` runs it in the peer's environment.

Order and parameters are those that the project publishes for FineWeb; the language model is read from a file given here
instead of being fetched.
"""

import argparse

from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
    LanguageFilter,
    URLFilter,
)
from datatrove.pipeline.formatters import PIIFormatter
from datatrove.pipeline.readers import WarcReader
from datatrove.pipeline.writers.jsonl import JsonlWriter
from datatrove.utils import lid


def main() -> None:
    """Runs the pipeline over a folder of WARC files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--lid", required=True)
    options = parser.parse_args()
    lid.cached_asset_path_or_download = lambda *_, **__: options.lid
    LocalPipelineExecutor(
        pipeline=[
            WarcReader(options.input, glob_pattern="*.warc.gz", default_metadata={"dump": "sample"}),
            URLFilter(),
            Trafilatura(favour_precision=True),
            LanguageFilter(languages=["en"]),
            GopherRepetitionFilter(),
            GopherQualityFilter(),
            C4QualityFilter(filter_no_terminal_punct=False),
            FineWebQualityFilter(),
            PIIFormatter(),
            JsonlWriter(f"{options.output}/kept"),
        ],
        tasks=options.cores,
        workers=options.cores,
        start_method="fork",  # so that the workers have the replaced function too
        logging_dir=f"{options.output}/logs",
    ).run()


if __name__ == "__main__":
    main()
