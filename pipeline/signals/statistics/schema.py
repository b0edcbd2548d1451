"""What the columns of the kernel mean: name, type, meaning, unit and source of each."""

import pyarrow as pa

from pipeline.signals.base import field
from pipeline.signals.statistics.columns import NAMES

GOPHER = "Rae et al. 2021, appendix A.1.1, as datatrove 0.10 measures it"
REPETITION = "Rae et al. 2021, table A1, as datatrove 0.10 measures it"
DOLMA = "dolma, taggers/gopher.py"
DCLM = "DCLM, baselines/mappers/filters/content_filters.py"
C4 = "Raffel et al. 2020"
FINEWEB = "Penedo et al. 2024, FineWeb, as datatrove 0.10 measures it"

_COUNTS: dict[str, tuple[str, str, str]] = {
    "char_count": ("length of the text", "characters", ""),
    "token_count": (
        "words and marks of punctuation, split as a treebank does; Han and kana by character",
        "tokens",
        GOPHER,
    ),
    "word_count": ("tokens with a character that is not punctuation", "words", GOPHER),
    "stop_word_count": ("how many of the eight stop words occur, case as written", "words", GOPHER),
    "line_count": ("lines that are not blank", "lines", ""),
    "sentence_count": (
        "sentences; every line begins one, and the first word after a sentence-final mark",
        "sentences",
        C4,
    ),
    "curly_brace_count": ("opening curly braces", "characters", C4),
    "lorem_ipsum_count": ("occurrences of `lorem ipsum`, any case", "phrases", C4),
    "javascript_count": ("occurrences of `javascript`, any case", "phrases", C4),
    "policy_phrase_count": ("occurrences of cookie and policy phrases, any case", "phrases", C4),
    "word_count_split": ("words between white space", "words", DOLMA),
    "longest_word_length": ("longest word between white space", "characters", C4),
    "stop_word_count_dolma": ("occurrences of the stop words, case as written", "words", DOLMA),
    "word_count_dclm": ("words between ASCII white space that begin with a letter or digit", "words", DCLM),
    "stop_word_count_dclm": (
        "occurrences of the stop words, any case; the same word twice counts twice",
        "words",
        DCLM,
    ),
    "longest_line_length": ("longest line", "characters", ""),
}
_MEASURES: dict[str, tuple[str, str, str]] = {
    "mean_word_length": ("mean length of the words of word_count", "characters", GOPHER),
    "hash_word_ratio": ("`#` for each token", "ratio", GOPHER),
    "ellipsis_word_ratio": ("`...` and `…` for each token", "ratio", GOPHER),
    "bullet_line_frac": ("lines (any line break) that begin with `•` or `-`", "0..1", GOPHER),
    "ellipsis_line_frac": ("lines (any line break) that end with `...` or `…`", "0..1", GOPHER),
    "alpha_word_frac": ("tokens with a letter", "0..1", GOPHER),
    "dup_line_frac": ("lines that are copies of an earlier one", "0..1", REPETITION),
    "dup_line_char_frac": ("characters in those, of the whole text", "0..1", REPETITION),
    "dup_para_frac": ("paragraphs that are copies of an earlier one", "0..1", REPETITION),
    "dup_para_char_frac": ("characters in those, of the whole text", "0..1", REPETITION),
    "terminal_punct_line_frac": ("lines not blank that end with a sentence-final mark", "0..1", FINEWEB),
    "short_line_30_frac": ("lines not blank of at most 30 characters", "0..1", FINEWEB),
    "dup_line_char_frac_fineweb": (
        "characters in copies of an earlier line that is not blank, of all but newlines", "0..1", FINEWEB,
    ),
    "newline_word_ratio": ("newlines for each token", "ratio", FINEWEB),
    "mean_word_length_split": ("mean length of words between white space", "characters", DCLM),
    "median_word_length_split": ("median length of words between white space; 255 for more", "characters", DOLMA),
    "alpha_word_frac_split": ("words between white space with a letter", "0..1", DOLMA),
    "non_alpha_word_frac_split": ("words between white space without a letter", "0..1", DCLM),
    "symbol_word_frac_dolma": ("words between white space that hold `#` or `…`", "0..1", DOLMA),
    "bullet_line_frac_dolma": ("lines, blank ones too, that begin with `*` or `-`", "0..1", DOLMA),
    "ellipsis_line_frac_dolma": ("lines, blank ones too, that end with U+2026", "0..1", DOLMA),
    "dup_line_frac_dolma": ("lines, blank ones too, that occur more than once, all copies", "0..1", DOLMA),
    "dup_line_char_frac_dolma": ("characters in those, for each that is not white space; may pass 1", "ratio", DOLMA),
    "symbol_word_ratio_dclm": ("`#`, `...`, `. . .` and `…` for each word between white space", "ratio", DCLM),
    "bullet_line_frac_dclm": ("lines not blank that begin with `●`, `•`, `*` or `-`", "0..1", DCLM),
    "ellipsis_line_frac_dclm": ("lines not blank that end with `...`, `. . .` or `…`", "0..1", DCLM),
    "dup_line_frac_dclm": ("stripped lines that occur more than once, all copies", "0..1", DCLM),
    "dup_line_char_frac_dclm": ("characters in those, of all stripped lines", "0..1", DCLM),
    "dup_para_frac_dclm": ("stripped paragraphs that occur more than once, all copies", "0..1", DCLM),
    "dup_para_char_frac_dclm": ("characters in those, of all stripped paragraphs", "0..1", DCLM),
    "unique_word_frac": ("different tokens, of all", "0..1", ""),
    "unigram_entropy": ("Shannon entropy of the distribution of tokens", "bits", "RedPajama v2 quality signals"),
    "mean_line_length": ("mean length of lines that are not blank", "characters", ""),
    "uppercase_char_frac": ("capital letters, of all characters", "0..1", ""),
    "digit_char_frac": ("digits, of all characters", "0..1", ""),
    "punct_char_frac": ("characters of Unicode category P, of all", "0..1", ""),
    "whitespace_char_frac": ("white space, of all characters", "0..1", ""),
    "cjk_char_frac": ("Han and kana, of all characters", "0..1", ""),
}  # fmt: skip
_TOP = {
    "": (
        "most frequent {n}-gram of tokens (the first of equals) with its spaces, all copies, of the whole text",
        REPETITION,
    ),
    "_dolma": ("most frequent {n}-gram of words between white space (the first of equals), all copies", DOLMA),
    "_dclm": ("most frequent {n}-gram of segments (the longest of equals) that occurs twice, all copies", DCLM),
}
_DUP = {
    "": ("{n}-grams of tokens seen before, taken from the left without overlap, of the whole text", REPETITION),
    "_dolma": ("{n}-grams of words between white space that occur twice, of all {n}-grams, overlaps counted", DOLMA),
    "_dclm": ("words in {n}-grams of segments that occur twice, each word once, of all words", DCLM),
}


def _column(name: str) -> pa.Field:
    if name in _COUNTS:
        meaning, unit, source = _COUNTS[name]
        return field(name, pa.int32(), meaning, unit, source)
    if name in _MEASURES:
        meaning, unit, source = _MEASURES[name]
        return field(name, pa.float64(), meaning, unit, source)
    kind, gram, *_ = name.split("_")
    dialect = name.partition("_frac")[2]
    meaning, source = (_TOP if kind == "top" else _DUP)[dialect]
    return field(name, pa.float64(), "characters in the " + meaning.format(n=gram.removesuffix("gram")), "0..1", source)


REMOVED = field(
    "removed_word_share",
    pa.float64(),
    "words (as word_count_dclm) that line edits removed, of those before; 0 where the text was not edited",
    "0..1",
    "Penedo et al. 2023, RefinedWeb, appendix G.2; " + DCLM,
)
SCHEMA = pa.schema([*(_column(name) for name in NAMES), REMOVED])
"""Every column of `Statistics`. A fraction of nothing (words of an empty text) is NaN, which breaks any bound on it."""
