"""Slow and obvious measures of one text, to hold the compiled kernel against. Words are given by a splitter of its own."""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from pipeline.signals.statistics.characters import code_points, english

STOP_WORDS = set(english()["stop_words"]["words"])
TERMINAL = {chr(c) for c in code_points(english()["sentence_terminal"]["ranges"])}
HAN_AND_KANA = {chr(c) for c in code_points(english()["han_and_kana"]["ranges"])}


def ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def copies(parts: Sequence[str]) -> tuple[int, int]:
    """Parts that are copies of an earlier one, and their characters."""
    counts = Counter(parts)
    return sum(n - 1 for n in counts.values()), sum((n - 1) * len(p) for p, n in counts.items())


def repeats(parts: Sequence[str]) -> tuple[int, int]:
    """Parts that occur more than once, every copy, and their characters."""
    counts = Counter(parts)
    return sum(n for n in counts.values() if n > 1), sum(n * len(p) for p, n in counts.items() if n > 1)


def grams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def characters_of(gram: Sequence[str]) -> int:
    return sum(len(word) for word in gram)


def top_gram_dolma(words: Sequence[str], n: int) -> float:
    counts = Counter(grams(words, n))
    if not counts:
        return ratio(0, characters_of(words))
    gram, count = counts.most_common(1)[0]
    return ratio(count * characters_of(gram), characters_of(words))


def dup_gram_dolma(words: Sequence[str], n: int) -> float:
    counts = Counter(grams(words, n))
    if not counts:
        return ratio(0, characters_of(words))
    repeated = sum(c * characters_of(g) for g, c in counts.items() if c > 1)
    return repeated / sum(c * characters_of(g) for g, c in counts.items())


def statistics(text: str) -> dict[str, float]:
    """The measures that need no word splitter but white space."""
    lines = text.split("\n")
    filled = [line for line in lines if line.strip()]
    stripped = [line.strip() for line in filled]
    any_lines = text.splitlines()
    words = text.split()
    runs = re.split("\n+", text)
    paragraphs = re.split("\n{2,}", text.strip())
    blocks = [p.strip() for p in re.split("\n{2,}", text) if p.strip()]
    lower = text.lower()
    word_chars = characters_of(words)
    lengths = sorted(len(word) for word in words)
    result = {
        "char_count": len(text),
        "line_count": len(filled),
        "bullet_line_frac": ratio(sum(s.lstrip().startswith(("•", "-")) for s in any_lines), len(any_lines)),
        "ellipsis_line_frac": ratio(sum(s.rstrip().endswith(("...", "…")) for s in any_lines), len(any_lines)),
        "dup_line_frac": ratio(copies(runs)[0], len(runs)) if text else math.nan,
        "dup_line_char_frac": ratio(copies(runs)[1], len(text)),
        "dup_para_frac": ratio(copies(paragraphs)[0], len(paragraphs)) if text else math.nan,
        "dup_para_char_frac": ratio(copies(paragraphs)[1], len(text)),
        "terminal_punct_line_frac": ratio(sum(line[-1] in TERMINAL for line in filled), len(filled)),
        "short_line_30_frac": ratio(sum(len(line) <= 30 for line in filled), len(filled)),
        "dup_line_char_frac_fineweb": ratio(copies(filled)[1], len(text.replace("\n", ""))),
        "curly_brace_count": text.count("{"),
        "lorem_ipsum_count": lower.count("lorem ipsum"),
        "javascript_count": lower.count("javascript"),
        "policy_phrase_count": sum(lower.count(p) for p in english()["policy_phrases"]["words"]),
        "word_count_split": len(words),
        "mean_word_length_split": ratio(word_chars, len(words)),
        "median_word_length_split": (
            (lengths[(len(words) - 1) // 2] + lengths[len(words) // 2]) / 2 if words else math.nan
        ),
        "longest_word_length": max(lengths, default=0),
        "alpha_word_frac_split": ratio(sum(any(c.isalpha() for c in w) for w in words), len(words)),
        "non_alpha_word_frac_split": ratio(sum(not any(c.isalpha() for c in w) for w in words), len(words)),
        "symbol_word_frac_dolma": ratio(sum("#" in w or "…" in w for w in words), len(words)),
        "stop_word_count_dolma": sum(w in STOP_WORDS for w in words),
        "bullet_line_frac_dolma": ratio(sum(s.startswith(("*", "-")) for s in lines), len(lines)),
        "ellipsis_line_frac_dolma": ratio(sum(s.endswith("…") for s in lines), len(lines)),
        "dup_line_frac_dolma": ratio(repeats(lines)[0], len(lines)) if text else math.nan,
        "dup_line_char_frac_dolma": repeats(lines)[1] / max(word_chars, 1) if text else math.nan,
        "word_count_dclm": sum(w[0].isalnum() for w in re.split("[ \t\n\v\f\r\0]+", text) if w),
        "symbol_word_ratio_dclm": ratio(sum(text.count(s) for s in ("#", "...", ". . .", "…")), len(words)),
        "stop_word_count_dclm": sum(w.lower() in STOP_WORDS for w in words),
        "bullet_line_frac_dclm": ratio(sum(s.startswith(("●", "•", "*", "-")) for s in stripped), len(stripped)),
        "ellipsis_line_frac_dclm": ratio(sum(s.endswith(("...", ". . .", "…")) for s in stripped), len(stripped)),
        "dup_line_frac_dclm": ratio(repeats(stripped)[0], len(stripped)),
        "dup_line_char_frac_dclm": ratio(repeats(stripped)[1], characters_of(stripped)),
        "dup_para_frac_dclm": ratio(repeats(blocks)[0], len(blocks)),
        "dup_para_char_frac_dclm": ratio(repeats(blocks)[1], characters_of(blocks)),
        "mean_line_length": ratio(characters_of(filled), len(filled)),
        "longest_line_length": max((len(line) for line in filled), default=0),
        "uppercase_char_frac": ratio(sum(c.isupper() for c in text), len(text)),
        "digit_char_frac": ratio(sum(c.isdigit() for c in text), len(text)),
        "punct_char_frac": ratio(sum(unicodedata.category(c)[0] == "P" for c in text), len(text)),
        "whitespace_char_frac": ratio(sum(c.isspace() for c in text), len(text)),
        "cjk_char_frac": ratio(sum(c in HAN_AND_KANA for c in text), len(text)),
    }
    for n in range(2, 5):
        result[f"top_{n}gram_char_frac_dolma"] = top_gram_dolma(words, n)
    for n in range(5, 11):
        result[f"dup_{n}gram_char_frac_dolma"] = dup_gram_dolma(words, n)
    return result


def word_statistics(words: Sequence[str], text: str) -> dict[str, float]:
    """Repetition of letters-only words separated by single spaces, on which every splitter agrees."""
    result: dict[str, float] = {"token_count": len(words), "word_count": len(words)}
    result["mean_word_length"] = ratio(characters_of(words), len(words))
    result["alpha_word_frac"] = ratio(len(words), len(words))
    result["stop_word_count"] = len(STOP_WORDS & set(words))
    result["unique_word_frac"] = ratio(len(set(words)), len(words))
    result["newline_word_ratio"] = ratio(text.count("\n"), len(words))
    shares = [count / len(words) for count in Counter(words).values()]
    result["unigram_entropy"] = -sum(p * math.log2(p) for p in shares) if words else math.nan
    for n in range(2, 5):
        counts = Counter(grams(words, n))
        best = counts.most_common(1)[0] if counts else ((), 0)
        result[f"top_{n}gram_char_frac"] = ratio(len(" ".join(best[0])) * best[1], len(text))
        most = max(counts.values(), default=0)
        longest = max((characters_of(g) for g, c in counts.items() if c == most), default=0)
        result[f"top_{n}gram_char_frac_dclm"] = ratio(most * longest if most > 1 else 0, characters_of(words))
    for n in range(5, 11):
        seen: set[tuple[str, ...]] = set()
        repeated = i = 0
        while i <= len(words) - n:
            gram = tuple(words[i : i + n])
            repeated += characters_of(gram) if gram in seen else 0
            i += n if gram in seen else 1
            seen.add(gram)
        result[f"dup_{n}gram_char_frac"] = ratio(repeated, len(text))
        counts = Counter(grams(words, n))
        covered = {k for i, gram in enumerate(grams(words, n)) if counts[gram] > 1 for k in range(i, i + n)}
        result[f"dup_{n}gram_char_frac_dclm"] = ratio(sum(len(words[k]) for k in covered), characters_of(words))
    return result
