"""Texts to tokens: `gigatoken` where it gives the very tokens that `tokenizers` gives, `tokenizers` everywhere else.

encoder = Encoder(load("tokenizer.json"))
encoded = encoder.encode(table["text"])       # tokens of all texts in one array, and how many each has
encoder.round_trips(table["text"], encoded)   # rows whose tokens do not spell the text: none

Texts are texts: one that spells `<|endoftext|>` gets the tokens of those characters, never the special token.
"""

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib.metadata import version
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import Tokenizer

from pipeline.errors import InputError, UsageError
from pipeline.tokenizer.files import TokenizerFile
from pipeline.tokenizer.kernel import differing, words
from pipeline.tokenizer.patterns import GPT2, KNOWN, stretches

Engine = Literal["auto", "gigatoken", "tokenizers"]

STRETCH = 1 << 21
"""Characters from which on a text is encoded in stretches, where that is certain to give the same tokens."""

LARGEST = 64_000_000
"""Bytes of a text, or of a stretch of it, that `tokenizers` is given at most: it needs 160 bytes of memory for a token."""

BATCH = 1 << 23
"""Bytes of text that `tokenizers` is given at once: it makes objects of every token."""


class Encoded(NamedTuple):
    """Tokens of several texts, one after another (uint32), and how many each text has (int64). Without special tokens."""

    tokens: np.ndarray
    lengths: np.ndarray

    @property
    def offsets(self) -> np.ndarray:
        """int64, one more than there are texts: where each begins."""
        return np.concatenate(([0], np.cumsum(self.lengths)))

    def row(self, number: int) -> np.ndarray:
        """The tokens of one text."""
        end = int(self.lengths[: number + 1].sum())
        return self.tokens[end - int(self.lengths[number]) : end]


class Encoder:
    """Encodes texts with one tokeniser.

    `engine` auto takes gigatoken where the tokeniser's configuration is of a kind for which it is known to agree with
    `tokenizers`, and both agree on a list of awkward texts; `fallback` says why it was not taken. To ask for gigatoken
    where they disagree raises UsageError. `parallel` False keeps gigatoken to the calling thread, as a Spark worker needs.
    """

    def __init__(self, tokenizer: TokenizerFile, engine: Engine = "auto", parallel: bool = True) -> None:
        if engine not in ("auto", "gigatoken", "tokenizers"):
            raise UsageError(f"there is no engine {engine!r}; there are auto, gigatoken and tokenizers")
        self.tokenizer, self.engine, self.parallel = tokenizer, engine, parallel
        self.fallback: str | None = None
        self._fast: Any = None
        if engine == "tokenizers":
            return
        self.fallback = unsuited(tokenizer) if engine == "auto" else None
        if self.fallback is None:
            self._fast, self.fallback = self._tested()
        if self.fallback is not None and engine == "gigatoken":
            raise UsageError(f"gigatoken cannot be used with this tokenizer: {self.fallback}")

    def __reduce__(self) -> tuple[Any, ...]:
        return Encoder, (self.tokenizer, self.engine, self.parallel)

    @property
    def name(self) -> str:
        """The engine that encodes, and its version."""
        engine = "tokenizers" if self._fast is None else "gigatoken"
        return f"{engine} {version(engine)}"

    @cached_property
    def reference(self) -> Tokenizer:
        """The tokeniser of `tokenizers`, which takes special tokens that a text spells for text."""
        return _reference(self.tokenizer)

    def encode(self, texts: pa.Array | pa.ChunkedArray, checked: bool = False) -> Encoded:
        """The tokens of texts (string, large_string or binary; null is an empty text), without special ones.

        Raises InputError for texts that are not UTF-8; `checked` says that the caller knows that they are.
        """
        array = _strings(texts, check=not checked)
        if not len(array):
            return Encoded(np.zeros(0, np.uint32), np.zeros(0, np.int64))
        divided, pieces = self._divided(array)
        encoded = self._encoded(divided)
        if pieces is None:
            return encoded
        starts = np.concatenate(([0], np.cumsum(pieces)))[:-1]
        return Encoded(encoded.tokens, np.add.reduceat(encoded.lengths, starts))

    def audit(self, texts: pa.Array | pa.ChunkedArray, rows: Sequence[int] | np.ndarray, encoded: Encoded) -> list[int]:
        """Those of `rows` whose tokens are not what `tokenizers` gives for the text; each is encoded again, and whole."""
        chosen = np.asarray(rows, np.int64)
        again = self._by_reference(_strings(texts.take(pa.array(chosen))))
        offsets, places = encoded.offsets, again.offsets
        return [
            int(row)
            for i, row in enumerate(chosen)
            if not np.array_equal(
                encoded.tokens[offsets[row] : offsets[row + 1]], again.tokens[places[i] : places[i + 1]]
            )
        ]

    def round_trips(self, texts: pa.Array | pa.ChunkedArray, encoded: Encoded) -> np.ndarray:
        """The rows (int64) whose decoded tokens differ from the text.

        Of byte-level tokenisers bytes are compared. Others, and those with a normaliser or a prefix space, need not give
        texts back: rows are listed where the decoder of the file does not.
        """
        array = _strings(texts)
        if len(array) != len(encoded.lengths):
            raise ValueError(f"{len(array)} texts, {len(encoded.lengths)} rows of tokens")
        out = np.zeros(len(array), np.bool_)
        if self.tokenizer.lossless and self.tokenizer.table is not None:
            data, offsets = _buffers(array)
            differing(data, words(data), offsets, encoded.tokens, encoded.lengths, *self.tokenizer.table, out)
            return np.flatnonzero(out)
        offsets = encoded.offsets
        for row, text in enumerate(array.to_pylist()):
            ids = encoded.tokens[offsets[row] : offsets[row + 1]].tolist()
            out[row] = self.reference.decode(ids, skip_special_tokens=False) != text
        return np.flatnonzero(out)

    def decode(self, tokens: np.ndarray) -> bytes:
        """The bytes that tokens stand for; a special token for its name."""
        known = self.tokenizer.token_bytes
        if known is not None:
            return b"".join(known[token] for token in np.asarray(tokens).tolist())
        return self.reference.decode(np.asarray(tokens).tolist(), skip_special_tokens=False).encode()

    def _divided(self, array: pa.Array) -> tuple[pa.Array, np.ndarray | None]:
        """Long texts in stretches, and how many there are of each text; None where no text is long."""
        sizes = np.diff(_buffers(array)[1])
        long = np.flatnonzero(sizes > STRETCH)
        if not len(long):
            return array, None
        if not divisible(self.tokenizer):
            return array, None
        counts, parts, done = np.ones(len(array), np.int64), [], 0
        for row in long:
            cut = pa.array(list(stretches(array[int(row)].as_py(), STRETCH)), pa.large_string())
            counts[row] = len(cut)
            parts += [array.slice(done, int(row) - done), cut]
            done = int(row) + 1
        return pa.concat_arrays([*parts, array.slice(done)]), counts

    def _encoded(self, array: pa.Array) -> Encoded:
        if self._fast is None:
            return self._by_reference(array)
        try:
            return _by_gigatoken(self._fast, array, self.parallel)
        except BaseException as error:
            # A panic of Rust's reaches Python as a BaseException of a class that no module exports.
            if self.engine != "auto" or not (isinstance(error, Exception) or type(error).__name__ == "PanicException"):
                raise
            self._fast, self.fallback = None, f"gigatoken failed: {str(error).splitlines()[0][:200]}"
            return self._by_reference(array)

    def _by_reference(self, array: pa.Array) -> Encoded:
        worst = int(np.diff(_buffers(array)[1]).max(initial=0))
        if worst > LARGEST:
            raise InputError(
                f"a text holds {worst:,} bytes in which no end of a word is certain; `tokenizers` can be given {LARGEST:,} "
                "(a tokenizer that gigatoken reads has no such limit)"
            )
        found: list[np.ndarray] = []
        for batch in _batches(array):
            # add_special_tokens=False also keeps post-processors from adding any.
            for encoding in self.reference.encode_batch_fast(batch, add_special_tokens=False):
                found.append(np.array(encoding.ids, np.uint32))
        lengths = np.array([len(ids) for ids in found], np.int64)
        tokens = np.concatenate([np.zeros(0, np.uint32), *found])
        self._refuse_special(tokens)
        return Encoded(tokens, lengths)

    def _refuse_special(self, tokens: np.ndarray) -> None:
        unknown = _unknown(self.tokenizer)
        ids = [id_ for name, id_ in self.tokenizer.special.items() if name != unknown]
        if len(tokens) and (found := np.flatnonzero(np.isin(tokens, ids))).size:
            name = self.tokenizer.name(int(tokens[found[0]]))
            raise InputError(
                f"the tokenizer makes the special token {name!r} of a text that spells it; it cannot be used"
            )

    def _tested(self) -> tuple[Any, str | None]:
        """gigatoken with this tokeniser, or why it cannot be had."""
        import gigatoken

        probes = pa.array(_probes(self.tokenizer), pa.large_string())
        try:
            fast = gigatoken.Tokenizer.from_json(_plain(self.tokenizer))
            found = _by_gigatoken(fast, probes, parallel=False)
        except BaseException as error:
            if not (isinstance(error, Exception) or type(error).__name__ == "PanicException"):
                raise
            return None, f"gigatoken cannot load it: {(str(error).splitlines() or [''])[0][:200]}"
        wrong = self.audit(probes, range(len(probes)), found)
        if wrong:
            return None, f"gigatoken encodes {probes[wrong[0]].as_py()[:40]!r} other than tokenizers does"
        return fast, None


def unsuited(tokenizer: TokenizerFile) -> str | None:
    """Why the configuration of a tokeniser is not of those for which gigatoken is known to agree; None where it is."""
    config = tokenizer.config
    model = config["model"]
    if not tokenizer.byte_level:
        return "it is no byte-level BPE"
    if config.get("normalizer") is not None:
        return "it has a normalizer"
    if tokenizer.added:
        return f"it has added tokens that are not special, such as {next(iter(tokenizer.added))!r}"
    if model.get("ignore_merges"):
        return "it takes words from the vocabulary before it merges (ignore_merges)"
    if _expression(config) is None:
        return "its pre-tokenizer is neither GPT-2's nor one regular expression"
    if not _ranked(model):
        return "the ids of its tokens are not in the order of merges"
    return None


def divisible(tokenizer: TokenizerFile) -> bool:
    """Whether `patterns.stretches` divides texts without a change to their tokens."""
    return tokenizer.lossless and not tokenizer.added and _expression(tokenizer.config) in KNOWN


def _expression(config: dict[str, Any]) -> str | None:
    """The regular expression that words are split by, where that is all there is to it."""
    node = config.get("pre_tokenizer") or {}
    steps = node.get("pretokenizers", [node])
    last = steps[-1] if steps else {}
    if last.get("type") != "ByteLevel":
        return None
    if len(steps) == 1:
        return GPT2 if last.get("use_regex", True) else None
    split = steps[0]
    if len(steps) != 2 or split.get("type") != "Split" or last.get("use_regex", True):
        return None
    if split.get("behavior") != "Isolated" or split.get("invert"):
        return None
    return (split.get("pattern") or {}).get("Regex")


def _ranked(model: dict[str, Any]) -> bool:
    """Whether later merges make tokens of higher ids."""
    vocabulary = model["vocab"]
    made = (
        "".join(merge) if isinstance(merge, list) else merge.replace(" ", "", 1) for merge in model.get("merges") or []
    )
    last = -1
    for token in made:
        if vocabulary.get(token, -1) <= last:
            return False
        last = vocabulary[token]
    return True


def _reference(tokenizer: TokenizerFile) -> Tokenizer:
    model = tokenizer.config["model"]
    if model.get("type", "BPE") == "BPE" and not model.get("ignore_merges"):
        made = tokenizer.build()
    else:
        # These models take any string of their vocabulary for a word, special ones too: none may find them.
        made = Tokenizer.from_str(_plain(tokenizer, hide=True))
        made.no_truncation()
        made.no_padding()
    made.encode_special_tokens = True
    return made


def _plain(tokenizer: TokenizerFile, hide: bool = False) -> str:
    """The tokenizer.json without special tokens; with `hide` their names in the vocabulary become others."""
    config = json.loads(tokenizer.body)
    config["added_tokens"] = [token for token in config.get("added_tokens") or [] if not token.get("special")]
    config["post_processor"] = config["truncation"] = config["padding"] = None
    vocabulary = config["model"].get("vocab")
    unknown = _unknown(tokenizer)
    names = {
        name: f"\ufdd0\ufdd1{id_}\ufdd0{tokenizer.sha256}"
        for name, id_ in tokenizer.special.items()
        if name != unknown and hide
    }
    if isinstance(vocabulary, dict):
        config["model"]["vocab"] = {names.get(name, name): id_ for name, id_ in vocabulary.items()}
    elif isinstance(vocabulary, list):
        config["model"]["vocab"] = [[names.get(name, name), score] for name, score in vocabulary]
    return json.dumps(config, ensure_ascii=False)


def _unknown(tokenizer: TokenizerFile) -> str | None:
    """The token that stands for what a model does not know: it may be special, and yet come out of texts."""
    model = tokenizer.config["model"]
    if model.get("unk_id") is not None:
        return tokenizer.name(int(model["unk_id"]))
    return model.get("unk_token")


def _by_gigatoken(fast: Any, array: pa.Array, parallel: bool) -> Encoded:
    # Imported here: importing both takes half a second, which not everyone who imports this needs.
    import awkward
    from awkward.contents import ListOffsetArray, NumpyArray
    from awkward.index import Index64

    data, offsets = _buffers(array)
    characters = NumpyArray(data, parameters={"__array__": "char"})
    texts = ListOffsetArray(Index64(offsets), characters, parameters={"__array__": "string"})
    layout = fast.encode_batch(awkward.Array(texts), parallel=parallel).layout
    starts = np.asarray(layout.offsets.data)
    return Encoded(np.asarray(layout.content.data)[starts[0] : starts[-1]], np.diff(starts))


def _strings(texts: pa.Array | pa.ChunkedArray, check: bool = False) -> pa.Array:
    """Texts as one large_string array without nulls. Raises InputError where bytes are not UTF-8, of strings on `check`."""
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks() if texts.num_chunks != 1 else texts.chunk(0)
    try:
        if check:
            texts.validate(full=True)
        array = texts.cast(pa.large_string())
    except pa.ArrowInvalid as error:
        raise InputError(f"a text is not UTF-8: {str(error).splitlines()[0]}") from error
    return pc.fill_null(array, "") if array.null_count else array


def _buffers(array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of a large_string array (uint8) and where each text begins and the last ends in them (int64)."""
    _, offsets, data = array.buffers()
    places = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1] if len(array) else None
    if places is None:
        return np.zeros(0, np.uint8), np.zeros(1, np.int64)
    return np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(1, np.uint8), places


def _batches(array: pa.Array) -> Iterator[list[str]]:
    """The texts in lists of about BATCH bytes."""
    places = _buffers(array)[1]
    first = 0
    while first < len(array):
        last = max(first + 1, int(np.searchsorted(places, places[first] + BATCH, "right")) - 1)
        yield array.slice(first, last - first).to_pylist()
        first = last


def _probes(tokenizer: TokenizerFile) -> list[str]:
    """Awkward texts: what engines are most likely to disagree on, written for the purpose."""
    names = [*tokenizer.special, *tokenizer.added][:200]
    spelled = [text for name in names for text in (name, f"a{name}b", f" {name} {name}\n", name[:-1], name[1:])]
    spaces = [
        "\t",
        "\n",
        "\r",
        "\r\n",
        "\v",
        "\f",
        "\x1c",
        "\x85",
        "\xa0",
        "\u1680",
        "\u2003",
        "\u2028",
        "\u3000",
        "\u200b",
    ]
    signs = [
        "\0",
        "'",
        "’",
        "''",
        "_",
        "-",
        "/",
        "<|",
        "|>",
        "\u00ad",
        "\u0301",
        "\ufe0f",
        "\u200d",
        "\ufeff",
        "\ufffd",
    ]
    letters = [
        "Ab",
        "éÉ",
        "ß",
        "ǅ",
        "İi",
        "ﬁ",
        "Ж",
        "ع",
        "ก",
        "ำ",
        "हि",
        "漢",
        "かカ",
        "한",
        "ª",
        "𝒜",
        "\U00020000",
        "ⓐ",
        "ᴬ",
    ]
    numbers = ["1", "12", "1234567", "٣", "²", "Ⅻ", "½", "一", "१२", "𝟘", "㉈"]
    joined = [
        f"{left}{gap}{right}"
        for left in (*letters, *numbers, *signs)
        for gap in ("", " ", "  ", "\n", " \n ", "'", "\u0301")
        for right in ("a", "1", "!", "漢")
    ]
    kept = [f"x{space * n}{after}" for space in spaces for n in (1, 2, 3) for after in ("", "y", "7", "?", "\ny", " z")]
    english = [
        f"I{sign}{end}{after}"
        for sign in "'’"
        for end in ("s", "S", "ll", "LL", "ſ", "ve", "d")
        for after in ("", "x", " x")
    ]
    long = [unit * 700 for unit in ("a", "7", " ", "\n", "漢", "ab", "'s", "\r\n", "!", "é", "A", "aB")]
    pages = [
        "def f(x):\n\tif x  ==  10_000:\r\n        return {'a': [1, 2.50], \"b\": None}  # done\n\n\n",
        "https://example.com/a?b=1&c=%20d#e <p class='x'>Tom &amp; Anna</p>",
        "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 e\u0301 n\u0303o ŉ ΑΣΣ ΐ",
        "Das ist gut. 这是中文，没有空格。ภาษาไทยไม่มีช่องว่าง이것은 한국어 문장이다。العربيَّة ١٢٣",
        "   indented\n     more \n\n \t mixed\u00a0\u00a0gaps   ",
        "1,234,567.89 3.14e-10 0xFF 2024-11-21T10:00:00Z +49 30 1234-5678",
    ]
    return ["", *spelled, *joined, *kept, *english, *long, *pages]
