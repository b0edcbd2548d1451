"""Tokenisers: read from any tokenizer.json or trained, used at speed with a reference beside, and reported on."""
