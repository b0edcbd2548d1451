"""What a recipe says of its inputs: their format, and where in a row its text stands."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from pipeline.options import Options, Share

Format = Literal["archive", "wikipedia", "books", "text", "code", "jsonl", "parquet"]

ROWS = ("jsonl", "parquet")
"""Formats whose files hold rows with named fields."""

TREES = ("books", "text", "code")
"""Formats in which a file is a document."""


def _names(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
"""Names of which the first that a row has counts. `meta.url` is the field url of the field meta."""


class Fields(Options):
    """Which fields of a row hold what; of several names the first that is there. `html` instead of `text`: the field holds
    a page, which is read as one."""

    text: Names = ("text", "content", "raw_content", "body")
    html: Names = ()
    id: Names = ("id", "doc_id", "uuid")
    url: Names = ("url", "uri", "meta.url", "metadata.url")
    date: Names = ("date", "timestamp", "date_published", "created")
    title: Names = ("title",)

    @field_validator("text")
    @classmethod
    def _some(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("name the field that holds the text")
        return value

    def of_body(self) -> tuple[str, ...]:
        """The names under which the text, or the page, is looked for."""
        return self.html or self.text


class Inputs(Options):
    """What the files of a run are. `endings`: the files that are taken of a folder, where these are not the usual ones.

    `tolerate`: share of input files, or of input bytes, that may be unreadable before a run ends with exit code 3.
    `tolerate_file`: share of a file's bytes that may be damaged, or of its records in error, before the whole file counts as
    one of those. A fifth: a sound file loses next to nothing (of 7,077 records of twelve samples of Common Crawl none), one
    with a bad stretch is still worth having, and one that lost so much is worth fetching again.
    """

    format: Format = "archive"
    fields: Fields = Fields()
    endings: tuple[str, ...] = ()
    tolerate: Share = 0.01
    tolerate_file: Share = 0.2

    @field_validator("endings")
    @classmethod
    def _dotted(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for ending in value:
            if not ending.startswith(".") or set(ending) & set("*?[/"):
                raise ValueError(f"an ending begins with a dot and is no pattern, such as .py; not {ending!r}")
        return tuple(ending.lower() for ending in value)

    @model_validator(mode="after")
    def _consistent(self) -> "Inputs":
        if self.fields != Fields() and self.format not in ROWS:
            raise ValueError(f"`fields` is for rows of {' and '.join(ROWS)}; the format is {self.format}")
        if self.endings and self.format == "archive":
            raise ValueError("`endings` is for other formats than archive")
        return self


class CodeGate(Options):
    """Source files that people did not write. `folders`: names of folders that hold the code of others; `files`: endings of
    names; `generated`: what stands in the first `generated_lines` lines of a generated file, in any case."""

    folders: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    generated: tuple[str, ...] = ()
    generated_lines: int = Field(default=5, ge=1)
