"""Checkpoints of a run: written beside the training, whole or not at all, and read by any number of ranks.

A checkpoint is a folder `step-00000500`: the tensors as PyTorch's distributed checkpoint (each rank writes what only it
has), `state.json`, and `manifest.json` with the SHA-256 of every file. It is written under a hidden name and renamed once
the data of all ranks are on the disk, so what has a name that counts is complete. `good` in it says that the run stayed
healthy long enough after it to come back to it.
"""

import errno
import fcntl
import json
import pickle
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from trainer import config
from trainer.checkpoint_files import (
    FORMAT,
    GOOD,
    MANIFEST,
    NAME,
    STATE,
    THREADS,
    CheckpointError,
    complete,
    damage,
    digest,
    full,
    hash_of,
    hashes,
    is_full,
    name_of,
    no_room,
    reason,
    remove,
    sync,
    write_text,
)
from trainer.optim import Optimizer
from trainer.parallel import World

MUCH = 256 * 2**20
"""Bytes on a rank above which one file becomes several."""


class Saved(NamedTuple):
    """How a save ended. `stall` is the time that training stood still for it, `seconds` the time until all was on the disk;
    `error` is set where nothing was saved, `note` where it was but older ones could not be removed."""

    step: int
    path: Path
    bytes: int
    stall: float
    seconds: float
    error: CheckpointError | None = None
    note: str | None = None


class Checkpoints:
    """The checkpoints of one run. Every rank makes one and calls `save`, `wait`, `load` and `close` in step with the others.

    `about` is written into each manifest: what the run is made of (digests of config, plan and tokenizer). Making one puts
    away what a killed run left half written, so a folder belongs to one run at a time: to the first that asks for it.
    """

    def __init__(
        self, folder: Path | str, options: config.Checkpoint, world: World, about: Mapping[str, Any] | None = None
    ) -> None:
        self.folder, self.options, self.world = Path(folder), options, world
        self.about = dict(about or {})
        # Of its own: a save talks to the other ranks from its thread while training does so from the main one.
        self._group = dist.new_group(backend="gloo")
        self._thread: threading.Thread | None = None
        self._saving: int | None = None
        self._pending: list[Saved] = []
        self._ended: list[Saved] = []
        self._stager: DefaultStager | None = None
        self._unproven: set[int] = set()
        self._lock: TextIO | None = None
        self._together(self._sweep, "the folder of checkpoints cannot be used")
        self._unproven |= {at for at, path in self.list() if not (path / GOOD).exists()}

    # Writing

    def hold(self) -> None:
        """Makes the folder and keeps other processes out of it. Raises CheckpointError where one is in it."""

        def make() -> None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._hold()

        self._together(make, "the folder of checkpoints cannot be used")

    def release(self) -> None:
        """Lets other processes in."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def reserve(self, model: nn.Module, optimizer: Optimizer, extra: Mapping[str, Tensor]) -> None:
        """Sets memory aside for the copies of asynchronous saves. Pinning it takes seconds for a large model: done before
        the first step, no step waits for it. Moments that do not exist yet are made."""
        if self.options.asynchronous:
            self._staged(_tensors(model, optimizer, extra))

    def save(
        self,
        step: int,
        model: nn.Module,
        optimizer: Optimizer,
        extra: Mapping[str, Tensor],
        state: Mapping[str, Any],
        asynchronous: bool | None = None,
    ) -> Saved | None:
        """Saves all that a run consists of: parameters, moments, `extra` tensors (the same on all ranks), `state` (JSON).

        Asynchronous (as configured, unless told), it returns once the tensors are copied to main memory; how it ended comes
        from `poll` or `wait`. Otherwise it returns when all is on the disk, and raises CheckpointError where that failed.
        A save that is still under way is finished first.
        """
        began = time.perf_counter()
        asynchronous = self.options.asynchronous if asynchronous is None else asynchronous
        self._join()
        text = json.dumps(dict(state), sort_keys=True)
        tensors = _tensors(model, optimizer, extra)
        if asynchronous:
            tensors = self._staged(tensors)
            stall = time.perf_counter() - began
            self._saving = step
            self._thread = threading.Thread(
                target=self._write, args=(step, tensors, text, began, stall), daemon=True, name="checkpoint"
            )
            self._thread.start()
            return None
        self._write(step, tensors, text, began, None)
        done = self._done()
        if done.error is not None:
            raise done.error
        return done

    def poll(self) -> Saved | None:
        """A save that has ended since the last look, or None. Its `error` says once that it failed; earlier ones remain."""
        if self._thread is not None and not self._thread.is_alive():
            self._join()
        return self._ended.pop(0) if self._ended else None

    def wait(self) -> Saved | None:
        """As `poll`, but waits for a save that is under way."""
        self._join()
        return self.poll()

    def close(self) -> None:
        """Waits for a save that is under way and gives the memory of copies back. Call before `parallel.stop`."""
        self._join()
        if self._stager is not None:
            self._stager.close()
            self._stager = None
        self.release()

    def promote(self, step: int) -> None:
        """Says that the run was healthy long enough after the checkpoints up to `step`: a rollback may return to them. Costs
        nothing where there are none: it can be said after every step. A save of such a step that is under way is waited for,
        so that how fast the disk is decides nothing."""
        if self._saving is not None and self._saving <= step:
            self._join()
        proven = {at for at in self._unproven if at <= step}
        if not proven:
            return
        self._unproven -= proven
        if self.world.rank == 0:
            try:
                for at, path in self.list():
                    if at in proven:
                        (path / GOOD).touch()
            except OSError:  # a full disk, of which the next save tells; this is tried again then
                self._unproven |= proven

    def drop_after(self, step: int) -> None:
        """Removes the checkpoints of later steps: what a rollback has given up must not be resumed from."""
        self._join()

        def drop() -> None:
            for at, path in self.list():
                if at > step:
                    remove(path)

        self._together(drop, "checkpoints that were given up cannot be removed")
        self._unproven = {at for at in self._unproven if at <= step}

    # Reading

    def list(self) -> Sequence[tuple[int, Path]]:
        """Steps and folders of the complete checkpoints, oldest first."""
        return complete(self.folder)

    def latest(self, good: bool = False) -> Path | None:
        """The newest checkpoint, or the newest that was promoted: the same on all ranks, which must all ask."""
        if self.world.size == 1:
            return self._newest(good)
        self._join()
        return self._gathered(self._newest(good))[0]

    def _newest(self, good: bool = False) -> Path | None:
        paths = [path for _, path in self.list() if not good or (path / GOOD).exists()]
        return paths[-1] if paths else None

    def load(
        self,
        where: int | str | Path,
        model: nn.Module,
        optimizer: Optimizer | None = None,
        extra: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Any]:
        """Reads a checkpoint (a step of this run, or a folder) into the tensors given, in place, and returns its state.

        How many ranks wrote it, and how they shared the model, does not matter. Raises CheckpointError where it is damaged
        or of another model; the tensors are then as they were.
        """
        self._join()
        # The first rank's, lest two of them mean two folders.
        path = Path(self._gathered(str(self.folder / name_of(where) if isinstance(where, int) else where))[0])
        wrong = self._agreed(lambda: damage(path, self.world.rank, self.world.size))
        if wrong:
            raise CheckpointError(f"checkpoint {path} cannot be used: {wrong[0]}; {self._instead(path)}")
        tensors = _tensors(model, optimizer, extra or {})
        wrong = self._agreed(lambda: _misfit(path, tensors))
        if wrong:
            raise CheckpointError(f"checkpoint {path} is not of this model: {wrong[0]}")
        try:
            dcp.load(tensors, storage_reader=dcp.FileSystemReader(path), process_group=self._group)
        except (CheckpointException, OSError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"checkpoint {path} cannot be read: {reason(error)}") from error
        return json.loads((path / STATE).read_text(encoding="utf-8"))

    # How it is done

    def _staged(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Copies in main memory, in buffers that are kept from save to save; pinned, where there is a GPU to copy from."""
        if self._stager is None:
            cuda = self.world.device.type == "cuda"
            # Pinned, not shared, not in a thread, without a wait for each copy; the last one's name differs between versions.
            self._stager = DefaultStager(StagingOptions(cuda, False, False, cuda))
        return self._stager.stage(tensors)  # type: ignore[return-value]

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = self._saving = None
            self._ended.append(self._done())

    def _done(self) -> Saved:
        done = self._pending.pop()
        if done.error is None:
            self._unproven.add(done.step)
        return done

    def _write(self, step: int, tensors: dict[str, Tensor], state: str, began: float, stall: float | None) -> None:
        """Writes one checkpoint and leaves in `_pending` how it ended. In a thread: nothing may be raised."""
        path, size = self.folder / name_of(step), _bytes(tensors)
        note = None
        try:
            wrong = self._written(step, tensors, size, state)
            if not wrong:
                note = "; ".join(self._agreed(self._retain)) or None
        except RuntimeError as lost:  # of gloo: there is nobody to agree with
            wrong = [f"a rank was lost ({reason(lost)})"]
        error = None
        if wrong:
            kept = self._newest()
            error = CheckpointError(
                f"checkpoint of step {step} was not saved: {wrong[0]}; "
                + (f"the newest one is {kept.name}, and it is whole" if kept else "there is no earlier one")
            )
        seconds = time.perf_counter() - began
        self._pending.append(Saved(step, path, size, seconds if stall is None else stall, seconds, error, note))

    def _written(self, step: int, tensors: dict[str, Tensor], size: int, state: str) -> Sequence[str]:
        """What went wrong. Every rank comes to every meeting, whatever happened to it before."""
        path, draft = self.folder / name_of(step), self.folder / f".{name_of(step)}.tmp"
        found: dict[str, Any] = {}
        wrong = self._agreed(lambda: self._open(draft, size))
        if not wrong:
            wrong = self._agreed(lambda: self._put(draft, tensors, size))
        if not wrong:
            wrong = self._agreed(lambda: found.update(hashes(draft, self.world.rank)))
        if not wrong:
            parts = self._gathered(found)
            wrong = self._agreed(lambda: self._finish(step, draft, path, state, parts))
        if wrong:
            self._agreed(partial(self._clear, draft))
        return wrong

    def _clear(self, draft: Path) -> None:
        if self.world.rank == 0:
            shutil.rmtree(draft, ignore_errors=True)  # what is left of it is swept up at the next start

    def _open(self, draft: Path, size: int) -> str | None:
        if self.world.rank:
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        if draft.exists():
            remove(draft)
        free = shutil.disk_usage(self.folder).free
        if free < size + 2**20:
            return full(self.folder, size, free)
        draft.mkdir()
        return None

    def _put(self, draft: Path, tensors: dict[str, Tensor], size: int) -> str | None:
        try:
            threads = THREADS if size / self.world.size > MUCH else 1
            writer = dcp.FileSystemWriter(draft, thread_count=threads)
            dcp.save(tensors, storage_writer=writer, process_group=self._group)
        except (CheckpointException, OSError, RuntimeError) as error:
            # The writer of tensors hides what the system said behind an error of its own.
            if is_full(error) or no_room(draft, size):
                return full(self.folder, size, shutil.disk_usage(self.folder).free)
            return reason(error)
        return None

    def _finish(self, step: int, draft: Path, path: Path, state: str, parts: Sequence[Mapping[str, Any]]) -> str | None:
        if self.world.rank:
            return None
        files = {name: entry for part in parts for name, entry in part.items()}
        write_text(draft / STATE, state)
        files |= {name: hash_of(draft / name) for name in (STATE, ".metadata")}
        body = {
            **self.about,
            "format": FORMAT,
            "step": step,
            "ranks": self.world.size,
            "torch": torch.__version__,
            "files": dict(sorted(files.items())),
        }
        write_text(draft / MANIFEST, json.dumps(body | {"sha256": digest(body)}, indent=1, sort_keys=True))
        sync(draft)
        old = self.folder / f".{path.name}.old"
        if path.exists():  # of a stretch that was rolled back
            path.rename(old)
        draft.rename(path)
        sync(self.folder)
        return None

    def _retain(self) -> str | None:
        """Removes what is not kept: not the newest, no permanent one, not the newest good one, and not the next that can
        become good."""
        if self.world.rank:
            return None
        known = self.list()
        keep = {step for step, _ in known[-self.options.keep :]}
        if self.options.permanent:
            keep |= {step for step, _ in known if step % self.options.permanent == 0}
        good = [step for step, path in known if (path / GOOD).exists()]
        keep |= set(good[-1:])
        keep |= set([step for step, _ in known if not good or step > good[-1]][:1])
        try:
            for path in [*self.folder.glob(".step-*.old"), *(path for step, path in known if step not in keep)]:
                remove(path)
        except OSError as error:
            return f"older checkpoints could not be removed: {reason(error)}"
        return None

    def _sweep(self) -> None:
        """Puts away drafts; brings back the old one where a run was killed between taking it away and putting the new one."""
        if not self.folder.is_dir():
            return
        self._hold()
        for path in self.folder.iterdir():
            if path.name.startswith(".step-") and path.suffix == ".old":
                name = path.with_suffix("").name[1:]
                if not (self.folder / name).exists():
                    path.rename(self.folder / name)
                    continue
            if path.name.startswith(".") and path.suffix in (".tmp", ".old", ".gone"):
                shutil.rmtree(path)

    def _hold(self) -> None:
        if self._lock is not None:
            return
        file = self.folder.with_name(f".{self.folder.name}.lock").open("a")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise CheckpointError(
                    "another process trains here; wait for it or stop it, or set another out"
                ) from None
            return  # a file system without locks: nobody can be kept out
        self._lock = file

    def _together(self, act: Callable[[], None], doing: str) -> None:
        """Does something on the first rank while the others wait. Raises CheckpointError on all of them where it fails."""
        wrong = self._agreed(lambda: act() if self.world.rank == 0 else None)  # type: ignore[func-returns-value]
        if wrong:
            raise CheckpointError(f"{self.folder}: {doing}: {wrong[0]}")

    def _agreed(self, act: Callable[[], str | None]) -> Sequence[str]:
        """What went wrong on any rank, the same on all. A meeting: nobody goes on before all are there."""
        try:
            said = act()
        except OSError as error:
            said = full(self.folder, 0, 0) if is_full(error) else reason(error)
        except Exception as error:  # told to every rank, and from there to the user
            said = reason(error)
        return [f"rank {rank}: {s}" if self.world.size > 1 else s for rank, s in enumerate(self._gathered(said)) if s]

    def _gathered(self, thing: Any) -> Sequence[Any]:
        things = [None] * self.world.size
        dist.all_gather_object(things, thing, group=self._group)
        return things

    def _instead(self, path: Path) -> str:
        """What to use in its place: the newest older one that is whole."""
        named = NAME.fullmatch(path.name)
        for step, other in reversed(self.list()):
            if other.resolve() == path.resolve() or (named is not None and step > int(named[1])):
                continue
            if not self._agreed(partial(damage, other, self.world.rank, self.world.size)):
                return f"{other} is whole and can be used"
        return "there is no older one that is whole"


def _tensors(model: nn.Module, optimizer: Optimizer | None, extra: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All tensors of a run under names that say nothing of how they are shared. Moments that do not exist yet are made, as
    the optimisers would make them in their first step."""
    out: dict[str, Tensor] = {}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        out[f"parameter.{name}"] = parameter.detach()
    if optimizer is not None:
        for group in optimizer.adam.param_groups:
            for parameter in group["params"]:
                state = optimizer.adam.state[parameter]
                if not state:
                    state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                    state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                    state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                for kind, tensor in state.items():
                    out[f"adam.{names[id(parameter)]}.{kind}"] = tensor.detach()
        for group in optimizer.muon.param_groups if optimizer.muon else []:
            for parameter in group["params"]:
                state = optimizer.muon.state[parameter]  # type: ignore[union-attr]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                out[f"muon.{names[id(parameter)]}.momentum"] = state["momentum"].detach()
    for name, tensor in extra.items():
        out[f"extra.{name}"] = tensor.detach()
    return out


def _misfit(path: Path, tensors: Mapping[str, Tensor]) -> str | None:
    """In what a checkpoint differs from the tensors that are to be read, or None."""
    try:
        has = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
    except (OSError, pickle.UnpicklingError, AttributeError, EOFError) as error:
        return f"its list of tensors cannot be read: {reason(error)}"
    for name, tensor in tensors.items():
        entry = has.get(name)
        if not isinstance(entry, TensorStorageMetadata):
            return f"it has no {name}"
        if entry.size != tensor.shape:
            return f"{name} is {tuple(entry.size)} in it and {tuple(tensor.shape)} here"
    more = [name for name in has if name.startswith("parameter.") and name not in tensors]
    return f"it has {more[0]}, which is not here" if more else None


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of whole tensors: what all ranks together write."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
