"""Which lines look like code and like mathematics, and what share of a text they are."""

import inspect
import json.decoder
import string
import textwrap

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifiers.code_math import SCHEMA, CodeMath, kinds, rules, shares

C = """
#include <stdio.h>
int main(void) {
    int total = 0;
    for (int i = 0; i < 9; i++) {
        total += i * i;  // squares
    }
    printf("%d", total);
    return 0;
}
"""
SHELL = """
$ sudo apt-get install make
cd /srv/app
git clone https://example.org/app.git
export PATH=/opt/bin
if [ -f config ]
then
  chmod 600 config
fi
"""
LISP = """
(defun c:draw (/ n)
  (setq n (+ n 1))
  (command "LINE" start end "")
)
"""
MARKUP = """
<!DOCTYPE html>
<ul class="menu">
<li><a href="/a">first</a></li>
</ul>
"""
SQL = "SELECT name, age FROM people WHERE age > 3\nINSERT INTO people VALUES (1, 2)\nCREATE TABLE towns (id int)"
PROSE = """
The mill stands where two streams meet; it was built by the grandfather of the miller (a careful man).
People come from far away: some to see the wheel, some for the bread.
"If you want flour," he said, "you must wait for rain!" Nobody minded.
In the first year (1871) they sold 3 = three loaves; in the second, four hundred.
"""
MATHS = r"""
Let \frac{a}{b} be a fraction in lowest terms.
$$ x^2 + y^2 = z^2 $$
For all ε there is a δ with ∀x ∈ ℝ.
<math><mi>x</mi></math>
{\displaystyle e^{i\pi }+1=0}
"""


def share(text: str, kind: str = "code") -> float:
    return shares([text]).column(f"{kind}_share")[0].as_py()


@pytest.mark.parametrize(("text", "least"), [(C, 0.9), (SHELL, 0.7), (LISP, 0.7), (MARKUP, 0.9), (SQL, 0.9)])
def test_programs_are_code(text: str, least: float) -> None:
    assert share(text) >= least
    assert share(text, "math") < 0.1


def test_python_sources_are_mostly_code_once_their_docstrings_are_gone() -> None:
    found = shares(
        [textwrap.dedent(inspect.getsource(f)) for f in (string.Formatter.vformat, json.decoder.JSONDecoder.decode)]
    )
    assert min(found.column("code_share").to_pylist()) > 0.4


def test_prose_is_no_code_and_no_mathematics() -> None:
    assert share(PROSE) == 0 and share(PROSE, "math") == 0
    listed = "You need:\n- two eggs;\n- flour;\n(a) the parties agree to meet in spring; and\n> int x = 3;\n"
    assert share(listed) == 0


def test_a_text_with_a_listing_has_its_share() -> None:
    prose, listing = "Here is how it is called in practice today\n", "result = compute(4, 5);\n"
    expected = len(listing.strip()) / (len(prose.strip()) + len(listing.strip()))
    assert share(prose + "   " + listing) == pytest.approx(expected, abs=1e-6)


def test_mathematics_is_seen_in_latex_mathml_and_signs() -> None:
    for line in MATHS.strip().splitlines():
        assert share(line, "math") == 1, line
    assert share("It costs $5 or $6 and weighs x kg", "math") == 0


def test_texts_without_anything_have_no_share() -> None:
    found = shares([None, "", " \n\t", "word"])
    assert found.schema.equals(SCHEMA)
    assert found.column("code_share").to_pylist() == [None, None, None, 0]
    assert shares(pa.array([], pa.string())).num_rows == 0


def test_kinds_are_named_from_the_thresholds_on() -> None:
    named = kinds(shares([C, PROSE, MATHS, None]))
    assert named["code"].to_pylist() == [True, False, False, False]
    assert named["math"].to_pylist() == [False, False, True, False]
    assert set(rules().thresholds) == {"code", "math"}


@given(st.lists(st.none() | st.text(max_size=80), max_size=6))
def test_any_text_has_shares_that_do_not_depend_on_its_neighbours(texts: list[str | None]) -> None:
    whole = shares(texts)
    for column in whole.columns:
        values = np.array([v for v in column.to_pylist() if v is not None])
        assert ((values >= 0) & (values <= 1)).all()
    batch = pa.record_batch([pa.array([t and t.encode("utf-8", "replace").decode() for t in texts])], names=["text"])
    sliced = [CodeMath().annotate(batch.slice(i, 1)).to_pylist()[0] for i in range(len(texts))]
    assert sliced == whole.to_pylist()


def test_reviews_and_books_are_prose(shared_data) -> None:
    import gzip

    book = gzip.decompress(shared_data("labelled/text/gutenberg_1661.txt.gz").read_bytes()).decode("utf-8", "replace")
    found = shares(book.split("\n\n\n"))
    assert max(v or 0 for v in found.column("math_share").to_pylist()) == 0
    assert np.mean([(v or 0) > 0.2 for v in found.column("code_share").to_pylist()]) < 0.02
