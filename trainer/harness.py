"""Models of ours in lm-evaluation-harness: all of its tasks, without an export.

    python -m trainer.harness run --model crawlmill --model_args path=runs/350m --tasks arc_easy

or, in Python, `lm_eval.simple_evaluate(model=HarnessModel("runs/350m"), tasks=["arc_easy"])`. Needs the package lm_eval,
which is no part of Crawlmill.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.errors import UsageError
from trainer.inference import generate
from trainer.models import open_model, pick
from trainer.scoring import BATCH_TOKENS, Scorer, encode, rolling

if TYPE_CHECKING:
    Base = Any
else:
    try:
        from lm_eval.api.model import LM as Base  # noqa: N811 (their name)
    except ImportError:  # the rest of the trainer does without
        Base = object

NAME = "crawlmill"
MOST = 256
"""Tokens that are generated where a task does not say, as the harness's own models do."""


class HarnessModel(Base):
    """A model as the harness asks it. `path` and the options are those of `trainer.models.open_model`."""

    def __init__(
        self,
        path: str | Path,
        device: str | None = "auto",
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        batch_size: Any = None,
        max_batch_size: Any = None,
        batch_tokens: int = BATCH_TOKENS,
        tokenizer: str | None = None,
        eos: str | None = None,
        context: int | None = None,
    ) -> None:
        """`batch_size` is taken for the sake of the harness, and `batch_tokens` decides. The first GPU, which the harness
        asks for unless told, is that or the CPU, as with its own models."""
        if Base is object:
            raise UsageError("lm-evaluation-harness is not installed: pip install lm_eval")
        super().__init__()
        where, computed_in = pick("auto" if device in (None, "cuda:0") else device, dtype)
        self.found = open_model(path, where, computed_in, tokenizer, eos, context)
        self.scorer = Scorer(self.found.model, self.found.context, int(batch_tokens))

    @property
    def tokenizer_name(self) -> str:
        """What tells caches of two tokenizers apart."""
        return self.found.vocabulary.sha256

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Log-probability of each continuation after its context, and whether it is the likeliest."""
        pairs = [request.args for request in requests]
        wanted = encode(self.found.vocabulary, pairs)
        for (_, asked), request in zip(pairs, wanted, strict=True):
            if not 0 < len(request.continuation) <= self.scorer.longest:
                raise UsageError(f"a task asks for {asked[:60]!r}, which is {len(request.continuation):,} tokens")
        scores = [tuple(score) for score in self.scorer(wanted)]
        for pair, score in zip(pairs, scores, strict=True):
            self.cache_hook.add_partial("loglikelihood", pair, score)
        return scores  # type: ignore[return-value]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Log-probability of each text, in windows where it is longer than the model looks."""
        texts = [request.args[0] for request in requests]
        words = self.found.vocabulary
        found = []
        for text, tokens in zip(texts, words.encode(texts), strict=True):
            scores = self.scorer(rolling(tokens, words.bos, self.scorer.longest))
            found.append(sum(score.logprob for score in scores))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), found[-1])
        return found

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The likeliest continuation of each context, up to where its task says. Nothing is sampled."""
        words, found = self.found.vocabulary, []
        prompts = words.encode([request.args[0] for request in requests])
        for request, prompt in zip(requests, prompts, strict=True):
            context, options = request.args
            stops, most = _limits(options, words.end)
            room = self.scorer.longest - most
            if room < 1:
                raise UsageError(f"a task generates {most:,} tokens, the model looks at {self.scorer.longest:,}")
            given = prompt[-room:] or [words.bos]
            made = generate(self.found.model, [given], most, words.eos, words.size, _ends(words.decode, stops))[0]
            text = words.decode(made)
            for stop in stops:
                text = text.split(stop)[0]
            found.append(text)
            self.cache_hook.add_partial("generate_until", (context, options), text)
        return found


def _limits(options: dict[str, Any], end: str) -> tuple[list[str], int]:
    """Strings that end what is generated, and how many tokens it has at most. Raises UsageError where a task samples."""
    if options.get("do_sample") or float(options.get("temperature") or 0.0) > 0:
        raise UsageError("the task samples (do_sample, temperature); here only the likeliest tokens are generated")
    until = options.get("until") or []
    stops = [stop for stop in ([until] if isinstance(until, str) else [*until]) if stop]
    named = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
    most = next((int(options[name]) for name in named if options.get(name) is not None), MOST)
    return [*stops, end], most


def _ends(decode: Callable[[Sequence[int]], str], stops: Sequence[str]) -> Callable[[list[int]], bool]:
    return lambda made: any(stop in decode(made) for stop in stops)


def register() -> None:
    """Makes the harness know the name `crawlmill`."""
    from lm_eval.api.registry import register_model

    register_model(NAME)(HarnessModel)


def main() -> None:
    """The harness's own command line, with our models among its own."""
    try:
        from lm_eval.__main__ import cli_evaluate
    except ImportError:
        raise SystemExit("error: lm-evaluation-harness is not installed: pip install lm_eval") from None
    from trainer import harness  # the module by its name: what runs here is __main__

    harness.register()
    cli_evaluate()


if __name__ == "__main__":
    main()
