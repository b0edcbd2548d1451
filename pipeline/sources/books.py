"""Plain-text books: Project Gutenberg's frame removed, hard-wrapped paragraphs unwrapped."""

from typing import NamedTuple


class Book(NamedTuple):
    """A book. `title`, `author` and `language` come from the header; None where it has none."""

    text: str
    title: str | None
    author: str | None
    language: str | None


def book(text: str) -> Book:
    """The book in a file's text."""
    return Book(text, None, None, None)
