"""`python -m trainer --config FILE`, and under torchrun: what `crawlmill train` does, without the rest of Crawlmill."""

import sys

from pipeline.errors import CrawlmillError
from trainer.commands import app


def main() -> None:
    """Runs the command and ends the process with the exit codes of the command line."""
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except CrawlmillError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception as error:
        if not hasattr(error, "format_message"):  # wrong arguments, in whichever Click Typer brings
            raise
        print(f"error: {error.format_message()}; see python -m trainer --help", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
