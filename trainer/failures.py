"""How a run ends that does not reach its end: what happened, and what to do, in a line."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from pipeline.errors import CrawlmillError


class AbortedError(CrawlmillError):
    """The run went back as often as it may and still fails. A diagnosis lies in the run's folder."""

    exit_code = 4


class StoppedError(CrawlmillError):
    """A signal asked the run to stop; it saved and can go on."""

    exit_code = 143


class MemoryFullError(CrawlmillError):
    """The model, or what it computes at one time, does not fit the device."""


class RankLostError(CrawlmillError):
    """Another rank does not answer: it was killed, or has failed itself and says why."""


@contextmanager
def explained(micro_tokens: int, newest: Callable[[], str | None]) -> Iterator[None]:
    """Turns what PyTorch says of full memory and of ranks that are gone into errors that say what to do.

    `micro_tokens` is what the run computes at one time, `newest` names its newest checkpoint.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if _is_memory(error):
            raise MemoryFullError(
                f"out of memory ({_first_line(error)}): lower micro_tokens (now {micro_tokens:,}), set "
                'parallel.checkpoint_activations = "selective" or "full", or share the state among more ranks '
                f"(parallel.shard = 0); {_again(newest())}"
            ) from error
        if _is_lost(error):
            raise RankLostError(
                f"another rank is gone ({_first_line(error)}): it was killed, or says above why it ended; {_again(newest())}"
            ) from error
        raise


def _again(newest: str | None) -> str:
    return (
        f"the same command goes on from {newest}" if newest else "the same command begins anew, nothing was saved yet"
    )


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return any(sign in text for sign in ("DefaultCPUAllocator", "CUDA out of memory", "not enough memory"))


def _is_lost(error: BaseException) -> bool:
    """Gloo has no error of its own for it."""
    if isinstance(error, dist.DistError):
        return True
    text = str(error).lower()
    return "gloo" in text or "closed by peer" in text or "reset by peer" in text


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200].rstrip(".")
