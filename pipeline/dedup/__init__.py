"""Deduplication: what makes two texts the same, or nearly, and which of them stays."""
