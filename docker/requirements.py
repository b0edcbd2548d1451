"""Prints what pyproject.toml asks for, one requirement a line: `requirements.py EXTRA… [--only NAME…]`.

Images install that in a layer of its own, before the code. `--only` takes of the dependencies that are always needed those
with these names (the trainer works without Spark and without what reads pages).
"""

import argparse
import re
import tomllib
from pathlib import Path


def requirements(project: dict, extras: list[str], only: list[str] | None) -> list[str]:
    """Requirement strings in the order of pyproject.toml. Raises SystemExit for names that do not stand there."""
    needed = project["dependencies"]
    if only is not None:
        names = {re.match(r"[\w.-]+", line)[0].lower(): line for line in needed}
        missing = sorted(set(only) - set(names))
        if missing:
            raise SystemExit(f"pyproject.toml does not ask for {', '.join(missing)}")
        needed = [names[name] for name in only]
    unknown = sorted(set(extras) - set(project["optional-dependencies"]))
    if unknown:
        raise SystemExit(f"pyproject.toml has no extra {', '.join(unknown)}")
    return [*needed, *(line for extra in extras for line in project["optional-dependencies"][extra])]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("extras", nargs="*", metavar="EXTRA")
    parser.add_argument("--only", nargs="*", metavar="NAME")
    options = parser.parse_args()
    with Path("pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    print("\n".join(requirements(project, options.extras, options.only)))
