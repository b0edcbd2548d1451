"""Listed words are found as words, in the list of the text's language, and nowhere inside other words."""

import pickle

import pyarrow as pa
import pytest

from classifiers.wordlists import SCHEMA, WordList, WordLists
from pipeline.errors import InputError


def lists(**terms):
    return WordLists(WordList(language, {"vulgar": tuple(of)}) for language, of in terms.items())


def matches(found, texts, languages="en"):
    return found.count(pa.array(texts), languages).matches.sum(axis=1).tolist()


def test_whole_words_only():
    found = lists(en=["ass", "cunt", "tit"])
    assert matches(found, ["Scunthorpe", "a class assesses titles", "an ass.", "ASS!", "Ass-wise", "assass"]) == [
        0,
        0,
        1,
        1,
        1,
        0,
    ]


def test_phrases_the_longest_first():
    found = lists(en=["son of a gun", "gun", "gun show"])
    counts = found.count(pa.array(["The son of a gun show.", "son of a", "gun gun show son of a gun"]), "en")
    assert counts.matches.sum(axis=1).tolist() == [1, 0, 3]
    assert counts.listed.sum(axis=1).tolist() == [4, 0, 7]
    assert counts.words.tolist() == [6, 3, 7]


def test_a_phrase_that_breaks_off_hides_nothing_that_begins_inside():
    assert matches(lists(en=["bad old day", "old hat"]), ["bad old hat"]) == [1]


def test_marks_that_stand_for_letters():
    found = lists(en=["f*ck", "a$$"])
    assert matches(found, ["f*ck this", "a $$ sign", "f * ck", "fck", "a$$"]) == [1, 1, 1, 0, 1]


def test_normalised_alike():
    found = lists(de=["Scheiße"], fr=["ENCULÉ"])
    assert matches(found, ["SCHEISSE scheiße", "encule\u0301 ｅｎｃｕｌé", "Ｓcheiße"], ["de", "fr", "de"]) == [1, 2, 1]


def test_scripts_without_spaces_match_inside_a_sentence():
    found = lists(zh=["傻逼", "操"], ja=["クソ野郎"], th=["ไอ้เหี้ย"])
    texts = ["你是傻逼吗", "体操运动", "このクソ野郎が", "มันเป็นไอ้เหี้ยจริงๆ"]
    assert matches(found, texts, ["zh", "zh", "ja", "th"]) == [1, 0, 1, 1]


def test_languages_choose_the_list():
    found = lists(en=["slag"], sv=["fan"], no=["dritt"])
    texts = ["a fan of slag"] * 5 + ["dritt"] * 2
    languages = ["en", "sv", "en-GB", None, "de", "nb", "nn"]
    assert matches(found, texts, languages) == [1, 1, 1, 0, 0, 1, 1]
    assert found.count(pa.array(texts), languages).known.tolist() == [True, True, True, False, False, True, True]


def test_columns_and_nulls():
    found = WordLists([WordList("en", {"sexual": ("porn",), "vulgar": ("damn",)})])
    table = found.densities(pa.array(["porn damn and two", None, "", "?!", "clean"]), ["en", "en", "en", "en", "xx"])
    assert table.schema.equals(SCHEMA)
    assert table["listed_density"].to_pylist() == [0.5, None, None, None, None]
    assert table["listed_sexual_density"].to_pylist() == [0.25, None, None, None, None]
    assert table["listed_words"].to_pylist() == [2, None, None, None, None]
    without = lists(en=["damn"]).densities(pa.array(["damn"]), "en")
    assert without["listed_density"].to_pylist() == [1.0] and without["listed_sexual_density"].to_pylist() == [None]


def test_hostile_texts():
    texts = [
        "\x00\ud800".encode("utf-8", "replace").decode(),
        "fuck\u200b",
        "\ufeff",
        "a" * 100_000,
        "* " * 1000,
        "𝖋𝖚𝖈𝖐",
    ]
    assert matches(WordLists.own(), texts) == [0, 1, 0, 0, 0, 1]


def test_our_lists():
    own = WordLists.own()
    assert len(own.languages) == 27
    assert own.categories == ("sexual", "vulgar", "slurs")
    harmless = {
        "en": "Dick Cheney assessed the cockpit in Scunthorpe, a class act in Sussex.",
        "ja": "パチンコ屋で外人がロマンコメディを見た。郷土人形と三国人物。",
        "th": "สัดส่วนของหีบ แรดในสวนสัตว์",
        "zh": "妈妈的体操课和印度支那的废物利用",
        "es": "La zorra corre con el capullo",
        "fi": "Sika on eläin",
    }
    counts = own.count(pa.array(list(harmless.values())), list(harmless))
    assert counts.matches.sum(axis=1).tolist() == [1, 0, 0, 0, 0, 0]  # one Dick


def test_every_term_of_our_lists_is_found():
    own = WordLists.own()
    for one in own.lists:
        for category, terms in one.terms.items():
            counts = own.count(pa.array(list(terms)), one.language)
            assert (counts.matches.sum(axis=1) >= 1).all(), (one.language, category)


def test_a_folder_in_the_layout_of_ldnoobw(tmp_path):
    (tmp_path / "en").write_text("bad word\nworse\n\n", encoding="utf-8")
    (tmp_path / "fr-CA-u-sd-caqc").write_text("sacre\n", encoding="utf-8")
    (tmp_path / "zh.txt").write_text("\ufeff坏词\n", encoding="utf-8")
    (tmp_path / "README.md").write_text("not a list", encoding="utf-8")
    (tmp_path / "LICENSE").write_text("not a list", encoding="utf-8")
    found = WordLists.read(tmp_path)
    assert sorted(found.languages) == ["en", "fr-CA-u-sd-caqc", "zh"]
    assert found.categories == ("listed",)
    assert matches(found, ["A bad word, worse", "坏词"], ["en", "zh"]) == [2, 1]
    assert matches(pickle.loads(pickle.dumps(found)), ["a bad word"]) == [1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("en.yaml", "vulgar: [a, [b]]", "no word list"),
        ("en.yaml", "- a", "no word list"),
        ("en.yaml", "vulgar: [yes]", "no word list"),
        ("en.yaml", "a: [", "cannot read"),
        ("en", "", "no word list"),
        ("en", " ".join("abcdefghijklmnopq"), "17 words"),
        ("notes.md", "x", "no word lists in"),
    ],
)
def test_lists_that_are_none(tmp_path, name, content, message):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        WordLists.read(tmp_path)


def test_two_lists_of_one_language_and_missing_folder(tmp_path):
    with pytest.raises(InputError, match="two word lists"):
        WordLists([WordList("en", {"x": ("a b",)})] * 2)
    with pytest.raises(InputError, match="cannot read"):
        WordLists.read(tmp_path / "none")


def test_the_real_list_can_be_read(shared_data, tmp_path):
    import gzip
    import json

    with gzip.open(shared_data("labelled/wordlists/ldnoobw.jsonl.gz"), "rt", encoding="utf-8") as file:
        for row in map(json.loads, file):
            with (tmp_path / row["lang"]).open("a", encoding="utf-8") as out:
                out.write(row["term"] + "\n")
    found = WordLists.read(tmp_path)
    assert len(found.languages) == 28
    assert matches(found, ["Scunthorpe United won."]) == [0]
