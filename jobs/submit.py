"""The command line of a job that is submitted to Spark: `spark-submit jobs/extract.py --recipe … --input … --output …`."""

import argparse
import sys

from rich.console import Console

from jobs import annotate, curate, extract, log, metrics_commands, report_commands
from jobs import run as whole
from pipeline.errors import CrawlmillError
from pipeline.recipe import load_recipe


def main(stage: str, arguments: list[str] | None = None) -> None:
    """Runs one stage, or all for `run`, and ends the process with the exit codes of the command line."""
    parser = argparse.ArgumentParser(
        prog=f"jobs/{stage}.py",
        description=f"Runs {'all stages' if stage == 'run' else 'the run up to stage ' + stage}; "
        "what is done already in the output folder is not done again.",
        epilog=f"example: spark-submit jobs/{stage}.py --recipe default --input 'crawl/*.warc.gz' --output out",
    )
    parser.add_argument("--recipe", default="default", help="name of a shipped recipe, or path of a .yaml file")
    parser.add_argument("--input", nargs="+", required=True, help="files, globs, folders, https:// or s3:// addresses")
    parser.add_argument("--output", required=True, help="run folder: a path or an s3:// address")
    parser.add_argument("--partitions", type=int, help="Spark tasks to use; the result does not depend on it")
    parser.add_argument(
        "--index", help="band index to look for duplicates in and to add to: a path or an s3:// address"
    )
    parser.add_argument("--benchmarks", help="YAML file of benchmarks to look for, instead of the recipe's")
    parser.add_argument(
        "--tolerate", type=float, help="share of input files or bytes that may be unreadable, instead of the recipe's"
    )
    parser.add_argument(
        "--retry-quarantined", action="store_true", help="try again what ended the workers that touched it"
    )
    parser.add_argument("--metrics-port", type=int, help="serve metrics for Prometheus at this port; 0 for any")
    parser.add_argument("--metrics-host", default="127.0.0.1", help="address to serve them at")
    parser.add_argument("--log", help="file to log to; - for stderr")
    parser.add_argument("--log-format", choices=log.FORMATS, help="json, or text")
    parser.add_argument("--no-report", action="store_true", help="do not write report.html when the run ends")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    upto = whole.STAGES[-1] if stage == "run" else stage
    try:
        recipe = load_recipe(options.recipe)
        if options.benchmarks:
            recipe = recipe.with_benchmarks(options.benchmarks)
        if options.tolerate is not None:
            inputs = recipe.inputs.model_copy(update={"tolerate": options.tolerate})
            recipe = recipe.model_copy(update={"inputs": inputs})
        logged = metrics_commands.logging_to(options.log, options.log_format)
        err = Console(stderr=True)
        served = metrics_commands.served(err, options.metrics_port, options.metrics_host)
        wanted = report_commands.wanted() and not options.no_report
        with logged, served, report_commands.reporting(options.output, wanted, err) as reported:
            done = whole.run(
                recipe,
                options.input,
                options.output,
                partitions=options.partitions,
                upto=upto,
                index=options.index,
                retry_quarantined=options.retry_quarantined,
            )
    except CrawlmillError as error:
        if options.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    if upto == curate.STAGE:
        print(" ".join(f"{name}={count}" for name, count in curate.outcome_counts(done).items()))
    else:
        print(f"{upto} done: {len(done.done(extract.STAGE if upto == extract.STAGE else annotate.STAGE))} parts")
    if reported.place is not None:
        report_commands.say(Console(), reported.place)
