"""Bytes to records: archives, HTTP bodies, character sets, and where inputs come from."""
