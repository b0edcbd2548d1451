"""Books: the frame of Project Gutenberg in its forms over the years, and paragraphs made whole."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.extraction import extract
from pipeline.sources.books import Book, book

PROSE = """The road to the mill went down between two hedges, and whoever took it in
the rain came home with the colour of the clay on both of his boots. Nobody
had ever thought of paving it, since the miller was paid in flour and in the
good will of his neighbours."""

JOINED = " ".join(PROSE.split())

VERSE = """  The wheel goes round,
    The water falls,
  And not a sound
    Comes from the halls."""

HEADER = """\ufeffThe Project Gutenberg EBook of The Mill, by Ann Author

This eBook is for the use of anyone anywhere.

Title: The Mill
       And the Road to It

Author: Ann Author

Language: English

"""


def test_a_book_of_today() -> None:
    text = f"""{HEADER}*** START OF THE PROJECT GUTENBERG EBOOK THE MILL ***

Produced by a volunteer and the Online Distributed
Proofreading Team

[Illustration: The mill
in winter]

CHAPTER I

{PROSE}

{VERSE}

"Well," said he.

*** END OF THE PROJECT GUTENBERG EBOOK THE MILL ***

Updated editions will replace the previous one.
"""
    verse = "The wheel goes round,\n  The water falls,\nAnd not a sound\n  Comes from the halls."
    body = f'CHAPTER I\n\n{JOINED}\n\n{verse}\n\n"Well," said he.'
    assert book(text) == Book(body, "The Mill And the Road to It", "Ann Author", "English")
    assert book(text.replace("\n", "\r\n")) == book(text)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("***START OF THE PROJECT GUTENBERG EBOOK THE MILL***", "***END OF THE PROJECT GUTENBERG EBOOK THE MILL***"),
        ("*** START OF THIS PROJECT GUTENBERG EBOOK THE MILL ***", "End of the Project Gutenberg EBook of The Mill, by Ann"),
        ("*** START OF THIS PROJECT GUTENBERG EBOOK THE MILL,\nAND THE ROAD ***", "End of Project Gutenberg's The Mill"),
        ("*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*", "End of The Project Gutenberg Etext of Mill"),
        ("*END THE SMALL PRINT! FOR PUBLIC DOMAIN EBOOKS*Ver.02/11/02*END*", "End of this Project Gutenberg Etext"),
        ("*** START OF THE PROJECT GUTENBERG EBOOK, DIE MUEHLE ***", "Ende dieses Projekt Gutenberg Etextes Die Muehle"),
        ("*** START OF THE PROJECT GUTENBERG EBOOK LE MOULIN ***", "Fin de ce Projet Gutenberg Etext Le Moulin"),
        ("*** START OF THIS PROJECT GUTENBERG E-TEXT THE MILL ***", "*** END OF THIS PROJECT GUTENBERG E-TEXT THE MILL ***"),
    ],
)  # fmt: skip
def test_marks_of_all_years(start: str, end: str) -> None:
    read = book(f"{HEADER}{start}\n\n\n{PROSE}\n\n{PROSE}\n\n{end}\n\nThe full licence.\n")
    assert read.text == f"{JOINED}\n\n{JOINED}"
    assert read.author == "Ann Author"


def test_the_small_print_of_the_nineties_goes_with_all_before_it() -> None:
    text = f"""Project Gutenberg's Etext of The Mill, by Ann Author

***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN ETEXTS**START***
Why is this "Small Print!" statement here? You know: lawyers.
*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*

{PROSE}
"""
    assert book(text) == Book(JOINED, "The Mill", "Ann Author", None)


def test_a_licence_in_the_middle_goes() -> None:
    text = f"{HEADER}*** START OF THE PROJECT GUTENBERG EBOOK THE MILL ***\n{PROSE}\n" + (f"\n{PROSE}\n" * 300)
    text += "\n*** END OF THE PROJECT GUTENBERG EBOOK THE MILL ***\nThe licence.\n"
    text += f"*** START OF THE PROJECT GUTENBERG EBOOK THE MILL, PART TWO ***\n\n{PROSE}\n\nPart two.\n"
    text += "*** END OF THE PROJECT GUTENBERG EBOOK THE MILL, PART TWO ***\nThe licence.\n"
    read = book(text).text
    assert "licence" not in read and read.count(JOINED) == 302 and read.endswith("Part two.")


def test_notes_on_the_file_go() -> None:
    start, end = "*** START OF THE PROJECT GUTENBERG EBOOK X ***", "*** END OF THE PROJECT GUTENBERG EBOOK X ***"
    before = (
        "E-text prepared by Someone and the\nProject Gutenberg Team\n\n[Transcriber's Note: spelling is as it was.]\n\n"
    )
    after = "\n\nTRANSCRIBER'S NOTES:\n\nPage 3: a comma was missing.\n\nPage 9: so was a word.\n"
    assert book(f"{start}\n{before}{PROSE}{after}{end}\n").text == JOINED


def test_text_without_marks_is_all_there() -> None:
    assert book(f"{PROSE}\n\n{PROSE}") == Book(f"{JOINED}\n\n{JOINED}", None, None, None)
    verse = (
        "ANN:\nWhat says the wind that goes about the mill?\nIt says the night will come, and that it will.\n\n" * 20
    )
    assert book(verse).text == verse.strip("\n")
    unwrapped = f"{JOINED}\n{JOINED}\n\n  {JOINED}"
    assert book(unwrapped).text == unwrapped
    assert book("") == Book("", None, None, None)
    assert book("He read about Project Gutenberg.").text == "He read about Project Gutenberg."


def test_what_keeps_its_lines() -> None:
    table = "Flour      12   14\nBran        3    2\nRent to the owner of the mill and of the road    1"
    contents = "  I. The Road\n II. The Mill\nIII. The Flood"
    letter = f"{PROSE}\n{'ANN AUTHOR.':>70}"
    kept = book(f"{PROSE}\n\n{table}\n\n{PROSE}\n\n{contents}\n\n{letter}").text
    assert kept == f"{JOINED}\n\n{table}\n\n{JOINED}\n\n{contents}\n\n{JOINED}\nANN AUTHOR."


def test_paragraphs_apart_by_indentation_only() -> None:
    indented = "    " + PROSE
    assert book(f"{PROSE}\n\n{indented}\n{indented}\n").text == f"{JOINED}\n\n{JOINED}\n{JOINED}"


def test_hyphens_and_dashes_at_line_ends() -> None:
    text = """He was known in all of the villages around the mill for his rather well-
meant advice, which he gave to whoever asked for it and to the others as--
unlike the flour--it did not cost him anything at all, or so it seemed to
those who did not know how much time he spent on it."""
    assert "rather well-meant advice" in book(text).text and "others as--unlike" in book(text).text


def test_an_indented_quotation_is_a_paragraph() -> None:
    quotation = "\n".join(f"    {line}" for line in PROSE.split("\n"))
    assert book(f"{PROSE}\n\n{quotation}\n\n{PROSE}").text == f"{JOINED}\n\n{JOINED}\n\n{JOINED}"


_MARKED = ["", "*** START OF THE PROJECT GUTENBERG EBOOK ***\n", "*END*THE SMALL PRINT\n"]


@given(st.text(alphabet="aA .*-\n", max_size=300), st.sampled_from(_MARKED))
def test_never_raises_and_loses_no_word(text: str, mark: str) -> None:
    words = [word for word in text.replace("-", " ").split() if "*" not in word]
    assert [word for word in book(mark + text).text.replace("-", " ").split() if "*" not in word] == words


def _read(path) -> str:  # type: ignore[no-untyped-def]
    return gzip.decompress(path.read_bytes()).decode("utf-8")


@pytest.mark.parametrize(
    ("number", "title", "least"),
    [(16595, "Charles Dickens and Music", 0.84), (1661, "The Adventures of Sherlock Holmes", 0.93),
     (345, "Dracula", 0.94), (972, "The Devil's Dictionary", 0.89)],
)  # fmt: skip
def test_real_books(shared_data, number: int, title: str, least: float) -> None:  # type: ignore[no-untyped-def]
    text = _read(shared_data(f"labelled/text/gutenberg_{number}.txt.gz"))
    read = book(text)
    assert read.title == title and read.author and read.language == "English"
    assert "gutenberg" not in read.text.lower() and "transcriber" not in read.text.lower()
    assert len(read.text) > least * len(text)
    paragraphs = read.text.split("\n\n")
    assert sum("\n" not in paragraph for paragraph in paragraphs) > 0.75 * len(paragraphs)


def test_a_real_book_in_html(shared_data) -> None:  # type: ignore[no-untyped-def]
    read = book(extract(_read(shared_data("labelled/text/gutenberg_1342-h.htm.gz"))).text)
    assert read.title == "Pride and Prejudice" and "gutenberg" not in read.text.lower()
    assert len(read.text) > 670_000


def test_real_verse_keeps_its_lines(shared_data) -> None:  # type: ignore[no-untyped-def]
    text = _read(shared_data("labelled/text/tinyshakespeare.txt.gz"))
    assert book(text).text == text.strip("\n")
