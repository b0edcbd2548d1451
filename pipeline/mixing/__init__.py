"""Mixing: which documents of which sources make up the phases of a training run, and in what order they come."""
