"""What a run writes of itself, and the bytes behind its bits per byte."""

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from trainer import config
from trainer.metrics import FILE, Log, clock_time, peak, plot, read, strict_flops
from trainer.model import flops_per_token
from trainer.tokenizer import TokenizerError, token_bytes

TEXTS = [
    "The cat sat on the mat; naïve café — 東京 and Ελλάδα.",
    "for i in range(10):\n\tprint(i)   # tabs, spaces",
    "Emoji 😀 take four bytes, é two.",
]


class Screen(io.StringIO):
    def __init__(self, tty: bool = False) -> None:
        super().__init__()
        self.tty = tty

    def isatty(self) -> bool:
        return self.tty


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def log_of(folder: Path, tty: bool = False, rank: int = 0, clock: Any = None, **options: Any) -> tuple[Log, Screen]:
    screen = Screen(tty)
    return Log(folder, config.Log(**options), rank, screen, clock or Clock()), screen


def take(log: Log, step: int, loss: float = 3.0, **changes: Any) -> None:
    facts = {
        "step": step,
        "steps": 20,
        "phase": "pretrain",
        "tokens": (step + 1) * 1000,
        "loss": loss,
        "gradient_norm": 0.5,
        "lr": 6e-4,
        "withheld": False,
        "batch_tokens": 1000,
        "seconds": 0.5,
        "wait": 0.005,
        "flops": 4e14,
        "strict_flops": 3e14,
    }
    log.step(**{**facts, **changes})


# Bits per byte.


def test_byte_level_tokens_have_the_bytes_of_the_text(tmp_path: Path) -> None:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=320, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
    )
    made.add_tokens(["ΔΔ"])
    made.save(str(tmp_path / "tokenizer.json"))
    counts = token_bytes(tmp_path / "tokenizer.json")
    assert counts.dtype == np.int64 and len(counts) == made.get_vocab_size()
    for text in [*TEXTS, "never seen: \x00 \U0001f9ff", "ΔΔ"]:
        assert counts[made.encode(text).ids].sum() == len(text.encode())
    assert counts[made.token_to_id("<|endoftext|>")] == 0
    assert counts[made.token_to_id("ΔΔ")] == 4
    # A token may hold a part of a character: decoding it to a string would have made three bytes of its one.
    assert counts[made.token_to_id("ð")] == 1


def test_tokens_with_signs_for_spaces_and_bytes_have_the_bytes_of_the_text(tmp_path: Path) -> None:
    letters = sorted({*"abcdefghijklmnop東", "\u2581"})
    names = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters, "ab", "\u2581ab"]
    vocabulary = {name: id_ for id_, name in enumerate(names)}
    merges = [("a", "b"), ("\u2581", "ab")]
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Replace(" ", "\u2581")
    made.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens(["<s>"])
    made.save(str(tmp_path / "tokenizer.json"))
    counts = token_bytes(tmp_path / "tokenizer.json")
    for text in ("ab cab ab", "東 ab", "é😀 z", "  "):
        assert counts[made.encode(text).ids].sum() == len(text.encode()), text
    assert counts[vocabulary["<unk>"]] == 0 and counts[vocabulary["<s>"]] == 0


def test_unigram_tokens_count_their_spaces(tmp_path: Path) -> None:
    made = Tokenizer(models.Unigram([("<unk>", 0.0), ("\u2581the", -1.0), ("\u2581", -2.0), ("é", -3.0)], unk_id=0))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.save(str(tmp_path / "tokenizer.json"))
    assert token_bytes(tmp_path / "tokenizer.json").tolist() == [0, 4, 1, 2]


def test_tokenizers_that_lose_spaces_or_cannot_be_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"model": {"type": "WordPiece", "vocab": {"a": 0, "##b": 1}}}))
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: .*spaces"):
        token_bytes(path)
    for broken in ("{", "[]", "{}", '{"model": {"vocab": 3}}'):
        path.write_text(broken)
        with pytest.raises(TokenizerError, match=r"cannot read tokenizer .*tokenizer\.json"):
            token_bytes(path)
    with pytest.raises(TokenizerError, match="cannot read"):
        token_bytes(tmp_path / "absent.json")


# Lines.


def test_a_line_every_few_steps_sums_up_those_between(tmp_path: Path) -> None:
    clock = Clock()
    log, screen = log_of(tmp_path, every=5, hour_price=3.6, watts=1000, clock=clock)
    log.peak = 989.0
    log.note("start", tokens=20_000, world=2, device="cpu")
    assert log.peak is None
    log.peak = 800.0
    for step in range(20):
        clock.now += 0.5
        take(log, step, loss=float(step), world=2, wait=0.05 if step == 7 else 0.0)
    log.note("end", step=20)
    log.close()
    lines = read(tmp_path)
    assert [line["kind"] for line in lines] == ["start", *["step"] * 5, "end"]
    steps = lines[1:-1]
    assert [line["step"] for line in steps] == [0, 4, 9, 14, 19]
    third = steps[2]
    assert (third["loss"], third["mean_loss"], third["phase"]) == (9.0, 7.0, "pretrain")
    assert third["tokens_per_second"] == pytest.approx(2000)
    assert third["mfu"] == pytest.approx(4e14 / 0.5 / (2 * 800e12))
    assert third["mfu_strict"] == pytest.approx(3e14 / 0.5 / (2 * 800e12))
    assert third["data_wait"] == pytest.approx(0.05 / 2.5)
    assert third["seconds_left"] == pytest.approx(5.0)
    assert third["seconds"] == pytest.approx(5.0)
    # Two ranks of 3.6 an hour and a kilowatt each, for five seconds.
    assert third["cost"] == pytest.approx(2 * 3.6 * 5 / 3600) and third["kwh"] == pytest.approx(2 * 5 / 3600)
    text = screen.getvalue()
    assert text.startswith("step 0 · start: 20,000 tokens on 2 x cpu\n") and "step 20 · end after 10 s\n" in text
    said = next(line for line in text.splitlines() if line.startswith("step 10/20"))
    for part in ("pretrain", "loss 9.0000", "lr 6.00e-04", "2.0k tok/s", "MFU 50.0%", "data wait 2.0%", "5 s left"):
        assert part in said, part
    assert "\r" not in text and "\x1b" not in text


def test_lines_are_there_when_they_are_written_and_have_no_nan(tmp_path: Path) -> None:
    log, _ = log_of(tmp_path, every=1)
    take(log, 0, loss=math.nan, gradient_norm=math.inf, withheld=True)
    log.note("event", step=0, what="skip", loss=math.nan, sources={"web": np.int64(3)})
    raw = (tmp_path / FILE).read_text()  # before anything is closed: a killed run has told all
    first, second = (json.loads(line, parse_constant=pytest.fail) for line in raw.splitlines())
    assert first["loss"] is None and first["mean_loss"] is None and first["withheld"] == 1
    assert second["what"] == "skip" and second["sources"] == {"web": 3}
    log.close()


def test_a_terminal_shows_one_line_and_keeps_what_happened(tmp_path: Path) -> None:
    clock = Clock()
    log, screen = log_of(tmp_path, tty=True, every=100, clock=clock)
    for step in range(3):
        clock.now += 1
        take(log, step)
    log.note("event", step=3, what="rollback", to=1)
    log.close()
    text = screen.getvalue()
    assert text.count("\r\x1b[K") == 4 and text.count("\n") == 1
    assert text.endswith("step 3 · rollback: to 1\n")
    # All steps are shown, and only the first is due for the file.
    assert [line["kind"] for line in read(tmp_path)] == ["step", "event"]


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    log, screen = log_of(tmp_path / "run", rank=1, every=1)
    take(log, 0)
    log.note("event", what="skip")
    log.close()
    assert not (tmp_path / "run").exists() and screen.getvalue() == ""


def test_a_run_that_was_killed_goes_on_in_its_file(tmp_path: Path) -> None:
    clock = Clock()
    log, _ = log_of(tmp_path, every=1, clock=clock)
    clock.now += 40
    take(log, 0, loss=5.0)
    take(log, 1, loss=4.0)
    log.close()
    with (tmp_path / FILE).open("a") as file:
        file.write('{"kind": "step", "st')  # where SIGKILL came
    clock = Clock()
    log, _ = log_of(tmp_path, every=1, clock=clock)
    clock.now += 10
    take(log, 1, loss=3.5)
    log.close()
    lines = read(tmp_path)
    assert [line["loss"] for line in lines] == [5.0, 4.0, 3.5]
    assert lines[-1]["seconds"] == pytest.approx(50)


def test_a_full_disk_is_told_once_and_does_not_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, screen = log_of(tmp_path, every=1)
    take(log, 0)

    class Full:
        def write(self, text: str) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda *args, **kwargs: Full())
        log._file = Full()  # type: ignore[assignment]
        take(log, 1)
        take(log, 2)
    take(log, 3)
    log.close()
    assert screen.getvalue().count("No space left on device; training goes on") == 1
    assert [line["step"] for line in read(tmp_path)] == [0, 3]


def test_peaks_are_known_by_name_or_not_at_all() -> None:
    assert peak("NVIDIA H100 80GB HBM3") == 989 and peak("NVIDIA H100 PCIe") == 756 and peak("NVIDIA H200") == 989
    assert peak("NVIDIA A100-SXM4-80GB") == 312 and peak("NVIDIA A10") == 125 and peak("NVIDIA B200") == 2250
    assert peak("cpu") is None and peak("NVIDIA TITAN V") is None and peak("NVIDIA A1000 Laptop GPU") is None


def test_strict_operations_agree_with_the_usual_count_where_all_pairs_meet() -> None:
    shape = config.Model(vocab_size=512)
    assert strict_flops(shape, 3 * 64, 3 * 64 * 64) == 3 * 64 * flops_per_token(shape, 64)
    assert strict_flops(shape, 64, 64 * 65 // 2) < 64 * flops_per_token(shape, 64)


def test_time_as_people_say_it() -> None:
    said = [clock_time(seconds) for seconds in (0.4, 59.4, 60, 3599, 3600, 86_399, 90_000)]
    assert said == ["0 s", "59 s", "1 min 0 s", "59 min 59 s", "1 h 0 min", "23 h 59 min", "1 d 1 h"]


# The plot.


def test_the_plot_shows_what_counts_and_not_what_was_taken_back(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    log, _ = log_of(tmp_path, every=1)
    for step in range(8):
        take(log, step, loss=9.0 - step / 10)
    log.note("event", step=7, what="rollback", to=4)
    for step in range(4, 7):
        take(log, step, loss=4.0, phase="anneal")
    for step in (0, 4, 7):
        log.note("eval", step=step, source="web", bits_per_byte=1.2 - step / 20, loss=3.0)
        log.note("eval", step=step, source="books", bits_per_byte=1.1 - step / 20, loss=3.0)
    log.close()
    from trainer.metrics import _latest

    kept = [(line["step"], line["loss"]) for line in _latest(read(tmp_path), "step")]
    assert [step for step, _ in kept] == list(range(7))
    assert [loss for _, loss in kept[4:]] == [4.0, 4.0, 4.0]
    assert [(line["step"], line["source"]) for line in _latest(read(tmp_path), "eval")][-2:] == [
        (7, "web"),
        (7, "books"),
    ]
    written = plot(tmp_path, Screen())
    assert [path.name for path in written] == ["loss.png", "loss.svg"]
    assert written[0].read_bytes().startswith(b"\x89PNG") and b"<svg" in written[1].read_bytes()[:600]


def test_without_matplotlib_or_steps_the_plot_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, _ = log_of(tmp_path)
    log.note("start", tokens=1, world=1, device="cpu")
    screen = Screen()
    assert plot(tmp_path, screen) == [] and "no step" in screen.getvalue()
    take(log, 0)
    log.close()
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    screen = Screen()
    assert plot(tmp_path, screen) == [] and "matplotlib is not installed" in screen.getvalue()
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
