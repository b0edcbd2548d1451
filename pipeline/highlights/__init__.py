"""The part of a text, or of an address, that a rule took offence at: what a report marks."""

from pipeline.highlights.addresses import url_part, url_parts
from pipeline.highlights.broken import offending
from pipeline.highlights.spans import Span, excerpt, pieces

__all__ = ["Span", "excerpt", "offending", "pieces", "url_part", "url_parts"]
