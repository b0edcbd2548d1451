"""HTML to text: engines by name, a cascade over them, and a sandbox to run them in.

    >>> from pipeline.extraction import extract
    >>> extract("<article><h1>Tea</h1><p>Pour water over the leaves.</p></article>", engine="resiliparse").text
    'Tea\\nPour water over the leaves.'

Text of every engine has one shape: blocks (paragraphs, headings, list items, table rows, lines of code) stand on lines
of their own with no blank line between, cells of a row are separated by ` | `, and code keeps its indentation. It is
valid Unicode without NUL, so it fits Arrow, and rules that count lines mean the same whatever the engine.
"""

from pipeline.extraction.engines import (
    ENGINES,
    Extraction,
    ExtractionOptions,
    extract,
    extract_fast,
    extract_plain,
    preload,
    refine,
)
from pipeline.extraction.sandbox import Failure, Result, Sandbox

__all__ = [
    "ENGINES",
    "Extraction",
    "ExtractionOptions",
    "Failure",
    "Result",
    "Sandbox",
    "extract",
    "extract_fast",
    "extract_plain",
    "preload",
    "refine",
]
