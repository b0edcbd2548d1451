"""The inspector: a local web app that shows what became of every page of a run, and why."""
