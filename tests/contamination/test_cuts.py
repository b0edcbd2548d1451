"""Places cut out of a page, and where places of an edited text lay before."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.contamination.cuts import excerpt, pieces, stretches, to_extracted, widened
from pipeline.edits import apply

# Letters that replacements do not hold, so that what is left of the text can be told from them.
TEXTS = st.text("abc dé漢\U0001f600\n", max_size=60)


@st.composite
def edited(draw: st.DrawFn) -> tuple[str, list[tuple[int, int, str]]]:
    text = draw(TEXTS)
    places = st.integers(0, len(text))
    spans = draw(st.lists(st.tuples(places, places, st.sampled_from(["", "#", "##"])), max_size=4))
    return text, [(min(a, b), max(a, b), replacement) for a, b, replacement in spans]


@given(edited(), st.data())
def test_a_span_of_the_edited_text_is_found_in_the_text_as_extracted(
    given: tuple[str, list[tuple[int, int, str]]], data: st.DataObject
) -> None:
    text, edits = given
    after = apply(text, edits)
    kept = stretches(len(text), edits)
    assert all(after[k.edited : k.edited + k.length] == text[k.extracted : k.extracted + k.length] for k in kept)
    assert sum(k.length for k in kept) == len(after.replace("#", ""))
    start = data.draw(st.integers(0, len(after)))
    end = data.draw(st.integers(start, len(after)))
    a, b = to_extracted((start, end), kept)
    assert 0 <= a <= b <= len(text)
    held = "".join(text[max(a, k.extracted) : max(a, min(b, k.extracted + k.length))] for k in kept)
    inside = after[start:end].replace("#", "")
    assert held == inside or not inside


@given(edited(), st.data())
def test_pieces_hold_all_that_is_not_cut_and_nothing_that_is(
    given: tuple[str, list[tuple[int, int, str]]], data: st.DataObject
) -> None:
    text, edits = given
    places = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=6)))
    cuts = list(zip(places[::2], places[1::2], strict=False))
    plain = pieces(text, cuts, [], 1)
    outside = apply(text, [(a, b, " ") for a, b in cuts])
    assert "".join("".join(plain.texts).split()) == "".join(outside.split())
    assert plain.n == len(plain.texts)
    left = pieces(text, cuts, edits, 1)
    cut_too = apply(text, [*edits, *((a, b, "") for a, b in cuts)])
    # Edits that reach into a cut leave what they put there beside it, so only what the page said is compared.
    assert "".join("".join(left.texts).replace("#", "").split()) == "".join(cut_too.replace("#", "").split())


def test_short_pieces_are_counted_and_left_out() -> None:
    found = pieces("long enough xx tiny yy long again", [(12, 14), (20, 22)], [], 6)
    assert found.texts == ["long enough", "long again"] and found.n == 3


def test_a_cut_ends_at_the_end_of_a_word_and_cuts_that_meet_are_one() -> None:
    text = "alpha beta gamma delta epsilon zeta"
    assert widened(text, [(text.index("gamma"), text.index("gamma") + 5)], 3) == [(6, 22)]
    assert widened(text, [(17, 22), (6, 10)], 6) == [(0, 30)]
    assert widened(text, [(6, 10), (31, 35)], 0) == [(6, 10), (31, 35)]
    assert widened("x" * 100, [(50, 51)], 10) == [(30, 71)]
    assert widened("ab", [(0, 2)], 10) == [(0, 2)]


def test_an_excerpt_shows_what_surrounds_the_spans_without_what_is_hidden() -> None:
    text = "once upon a time the keeper of vera@example.net lit the lamp and went home again"
    start, end = text.index("keeper"), text.index(" and")
    mail = text.index("vera")
    hidden = [(mail, mail + len("vera@example.net"), "<EMAIL_ADDRESS>")]
    shown, marks = excerpt(text, [(start, end)], hidden, context=12)
    assert shown == "a time the keeper of <EMAIL_ADDRESS> lit the lamp and went"
    assert [shown[a:b] for a, b in marks] == ["keeper of <EMAIL_ADDRESS> lit the lamp"]
    assert excerpt("x" * 100, [(40, 50)], [], context=10, most=15) == ("x" * 15, [(10, 15)])
    assert excerpt(text, [], []) == ("", [])


@given(edited(), st.data())
def test_marks_of_an_excerpt_lie_inside_it(given: tuple[str, list[tuple[int, int, str]]], data: st.DataObject) -> None:
    text, edits = given
    places = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=6)))
    spans = list(zip(places[::2], places[1::2], strict=False))
    shown, marks = excerpt(text, spans, edits, context=3)
    flat = [place for mark in marks for place in mark]
    assert flat == sorted(flat) and all(0 <= place <= len(shown) for place in flat)
    assert all(a < b for a, b in marks)
