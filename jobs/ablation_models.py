"""The models of an ablation are made side by side, each in a process of its own with a share of the cores."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import CrawlmillError, StorageError
from trainer import config as training
from trainer.ablation_run import Task, learn

Say = Callable[[str], None]


def default_workers(base: training.Config, models: int) -> int:
    """Models that are trained at once: one on a GPU, else one a core."""
    import torch

    if base.device == "cuda" or (base.device == "auto" and torch.cuda.is_available()):
        return 1
    return max(1, min(_cores(), models))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads(workers: int) -> int:
    """Cores for each of so many models."""
    return max(1, _cores() // workers)


def train(tasks: Sequence[Task], workers: int, say: Say) -> None:
    """Makes the models that are not made yet, so many at once. Raises what training raises."""
    left = [task for task in tasks if not Path(task.scores).exists()]
    if not left:
        return
    done = len(tasks) - len(left)
    if done:
        say(f"{done} of {len(tasks)} models are done")
    lock = threading.Lock()

    def said(task: Task) -> None:
        nonlocal done
        with lock:
            done += 1
            say(
                f"{done} of {len(tasks)} models: {task.name}, loss {json.loads(Path(task.scores).read_bytes())['loss']:.3f}"
            )

    def made(task: Task, running: _Processes) -> None:
        running.learn(task)
        if Path(task.scores).exists():  # and was not ended on the way
            said(task)

    for task in left:
        try:
            Path(task.options.out).mkdir(parents=True, exist_ok=True)
            task.save(_task_file(task))
        except OSError as error:
            raise StorageError(f"cannot write to {task.options.out}: {error.strerror or error}") from error
    if workers == 1:
        for task in left:
            with _log(task) as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                learn(task)
            said(task)
        return
    with _Processes() as running, ThreadPoolExecutor(workers) as pool:
        waiting = [pool.submit(made, task, running) for task in left]
        try:
            finished, _ = wait(waiting, return_when=FIRST_EXCEPTION)
            for future in finished:
                future.result()
        except BaseException:
            for future in waiting:
                future.cancel()
            running.stop()
            raise


def _task_file(task: Task) -> Path:
    return Path(task.scores).parent.parent / "tasks" / f"{task.name}.json"


@contextmanager
def _log(task: Task) -> Iterator[Any]:
    """The log of a model, to add to."""
    with (Path(task.options.out) / "log.txt").open("a", encoding="utf-8") as file:
        yield file


class _Processes:
    """Models that are made in processes of their own, which end when this one does."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[bytes]] = []
        self._stopped = False
        self._lock = threading.Lock()

    def __enter__(self) -> "_Processes":
        return self

    def __exit__(self, *error: Any) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends what still runs; nothing is lost but the steps since the last checkpoint."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                if process.poll() is None:
                    process.kill()

    def learn(self, task: Task) -> None:
        """Makes a model. Raises CrawlmillError with what its process said."""
        paths = os.pathsep.join(
            filter(None, [str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH")])
        )
        share = str(task.threads)
        with _log(task) as log:
            with self._lock:
                if self._stopped:
                    return
                process = subprocess.Popen(
                    [sys.executable, "-m", "trainer.ablation_run", str(_task_file(task))],
                    stdin=subprocess.PIPE,  # which this process's end closes
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": share, "MKL_NUM_THREADS": share},
                )
                self._running.append(process)
            code = process.wait()
            if process.stdin is not None:
                process.stdin.close()
        if code and not self._stopped:
            path = Path(log.name)
            lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
            said = next((line for line in reversed(lines) if line.startswith("error: ")), lines[-1] if lines else "")
            error = CrawlmillError(
                f"model {task.name} ended with {code}: {said.removeprefix('error: ')} (all of it in {path}); run the same "
                "command again to go on"
            )
            error.exit_code = code if code > 0 else 1
            raise error
