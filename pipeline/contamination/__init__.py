"""Decontamination: which pages hold items of benchmarks, which items leaked, and what is cut."""
