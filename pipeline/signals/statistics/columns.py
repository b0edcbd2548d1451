"""Names and places of the columns that the kernel fills. What they mean stands in `schema.py`."""

# Columns of a row, in order. The names of the repetition columns follow these.
(
    CHAR_COUNT, TOKEN_COUNT, WORD_COUNT, MEAN_WORD_LENGTH, HASH_WORD_RATIO, ELLIPSIS_WORD_RATIO,
    BULLET_LINE_FRAC, ELLIPSIS_LINE_FRAC, ALPHA_WORD_FRAC, STOP_WORD_COUNT, DUP_LINE_FRAC, DUP_LINE_CHAR_FRAC,
    DUP_PARA_FRAC, DUP_PARA_CHAR_FRAC, LINE_COUNT, TERMINAL_PUNCT_LINE_FRAC, SHORT_LINE_30_FRAC,
    DUP_LINE_CHAR_FRAC_FINEWEB, NEWLINE_WORD_RATIO, SENTENCE_COUNT, CURLY_BRACE_COUNT, LOREM_IPSUM_COUNT,
    JAVASCRIPT_COUNT, POLICY_PHRASE_COUNT, WORD_COUNT_SPLIT, MEAN_WORD_LENGTH_SPLIT, MEDIAN_WORD_LENGTH_SPLIT,
    LONGEST_WORD_LENGTH, ALPHA_WORD_FRAC_SPLIT, NON_ALPHA_WORD_FRAC_SPLIT, SYMBOL_WORD_FRAC_DOLMA,
    STOP_WORD_COUNT_DOLMA, BULLET_LINE_FRAC_DOLMA, ELLIPSIS_LINE_FRAC_DOLMA, DUP_LINE_FRAC_DOLMA,
    DUP_LINE_CHAR_FRAC_DOLMA, WORD_COUNT_DCLM, SYMBOL_WORD_RATIO_DCLM, STOP_WORD_COUNT_DCLM,
    BULLET_LINE_FRAC_DCLM, ELLIPSIS_LINE_FRAC_DCLM, DUP_LINE_FRAC_DCLM, DUP_LINE_CHAR_FRAC_DCLM,
    DUP_PARA_FRAC_DCLM, DUP_PARA_CHAR_FRAC_DCLM, UNIQUE_WORD_FRAC, UNIGRAM_ENTROPY, MEAN_LINE_LENGTH,
    LONGEST_LINE_LENGTH, UPPERCASE_CHAR_FRAC, DIGIT_CHAR_FRAC, PUNCT_CHAR_FRAC, WHITESPACE_CHAR_FRAC,
    CJK_CHAR_FRAC,
) = range(54)  # fmt: skip
REPETITION = 54
"""First of 3 x 9 columns: top 2- to 4-grams and duplicate 5- to 10-grams as datatrove, dolma and dclm define them."""
NAMES = (
    "char_count", "token_count", "word_count", "mean_word_length", "hash_word_ratio", "ellipsis_word_ratio",
    "bullet_line_frac", "ellipsis_line_frac", "alpha_word_frac", "stop_word_count", "dup_line_frac",
    "dup_line_char_frac", "dup_para_frac", "dup_para_char_frac", "line_count", "terminal_punct_line_frac",
    "short_line_30_frac", "dup_line_char_frac_fineweb", "newline_word_ratio", "sentence_count",
    "curly_brace_count", "lorem_ipsum_count", "javascript_count", "policy_phrase_count", "word_count_split",
    "mean_word_length_split", "median_word_length_split", "longest_word_length", "alpha_word_frac_split",
    "non_alpha_word_frac_split", "symbol_word_frac_dolma", "stop_word_count_dolma", "bullet_line_frac_dolma",
    "ellipsis_line_frac_dolma", "dup_line_frac_dolma", "dup_line_char_frac_dolma", "word_count_dclm",
    "symbol_word_ratio_dclm", "stop_word_count_dclm", "bullet_line_frac_dclm", "ellipsis_line_frac_dclm",
    "dup_line_frac_dclm", "dup_line_char_frac_dclm", "dup_para_frac_dclm", "dup_para_char_frac_dclm",
    "unique_word_frac", "unigram_entropy", "mean_line_length", "longest_line_length", "uppercase_char_frac",
    "digit_char_frac", "punct_char_frac", "whitespace_char_frac", "cjk_char_frac",
    *(
        f"{'top' if n < 5 else 'dup'}_{n}gram_char_frac{dialect}"
        for dialect in ("", "_dolma", "_dclm")
        for n in range(2, 11)
    ),
)  # fmt: skip
