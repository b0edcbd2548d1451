"""One bad item costs itself: every way of dying is one failure of the right kind, and the neighbours get results."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.extraction.sandbox import Failure, Result, Sandbox

ROOT = Path(__file__).resolve().parents[2]


class Panic(BaseException):
    pass


def misbehave(how):
    if how == "sleep":
        time.sleep(60)
    elif how == "busy":
        while True:
            ctypes.CDLL(None).usleep(1000)  # native code that no Python signal handler interrupts for long
    elif how == "native":
        sum(range(10**13))  # one C call that never looks at signals
    elif how == "abort":
        os.abort()
    elif how == "exit":
        os._exit(3)
    elif how == "sys.exit":
        sys.exit(4)
    elif how == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif how == "memory":
        return len(bytearray(4 << 30))
    elif how == "many":
        return len([bytearray(1 << 20) for _ in range(4096)])
    elif how == "rust":
        os.write(2, b"memory allocation of 99999999999 bytes failed\n")
        os.abort()
    elif how == "panic":
        raise Panic("index out of bounds")
    elif how == "error":
        raise ValueError("bad\npage")
    elif how == "unpicklable":
        return lambda: None
    return how


EXPECTED = {
    "sleep": "timeout",
    "busy": "timeout",
    "native": "timeout",
    "abort": "crash",
    "exit": "crash",
    "segfault": "crash",
    "memory": "memory",
    "many": "memory",
    "rust": "memory",
    "panic": "exception",
    "sys.exit": "exception",
    "error": "exception",
    "unpicklable": "exception",
}


@pytest.fixture(scope="module")
def outcomes():
    items = ["first"]
    for how in EXPECTED:
        items += [how, f"after {how}"]
    with Sandbox(misbehave, timeout_s=1.5, memory_mb=128) as sandbox:
        return dict(zip(items, sandbox.map(items), strict=True))


@pytest.mark.parametrize("how", EXPECTED)
def test_a_bad_item_fails_alone(outcomes, how):
    assert isinstance(outcomes[how], Failure)
    assert outcomes[how].kind == EXPECTED[how]
    assert outcomes[how].message and "\n" not in outcomes[how].message
    assert outcomes[f"after {how}"] == Result(f"after {how}")


def test_messages_name_the_cause(outcomes):
    assert outcomes["panic"].message == "Panic: index out of bounds"
    assert outcomes["error"].message == "ValueError: bad page"
    assert "SIGABRT" in outcomes["abort"].message
    assert "status 3" in outcomes["exit"].message


def double(item):
    return item * 2


def test_order_and_count_over_batches_and_sizes():
    items = [bytes([i % 256]) * size for i, size in enumerate([0, 1, 70_000, 3_000_000, 5] * 20)]
    with Sandbox(double, batch_size=7, batch_bytes=4_000_000) as sandbox:
        assert [result.value for result in sandbox.map(items)] == [item * 2 for item in items]


def test_full_pipes_do_not_deadlock():
    items = ["x" * 2_000_000] * 6
    with Sandbox(double, batch_bytes=1 << 30) as sandbox:
        assert sum(isinstance(result, Result) for result in sandbox.map(items)) == 6


def test_no_items_no_child():
    with Sandbox(double) as sandbox:
        assert list(sandbox.map([])) == []
        assert sandbox.pid is None


def test_a_slow_reader_is_not_a_slow_item():
    with Sandbox(double, timeout_s=0.3) as sandbox:
        outcomes = []
        for outcome in sandbox.map([1, 2, 3]):
            time.sleep(0.4)
            outcomes.append(outcome)
    assert outcomes == [Result(2), Result(4), Result(6)]


def test_an_abandoned_map_leaves_nothing_behind():
    with Sandbox(double) as sandbox:
        assert next(sandbox.map([1, 2, 3])) == Result(2)
        assert list(sandbox.map([10, 20])) == [Result(20), Result(40)]


def pid_of(_item):
    return os.getpid()


def grow(_item, kept=[]):  # noqa: B006 - a leak on purpose
    # Above 32 MB an allocation is never served from memory that the parent had freed and the child inherited.
    kept.append(bytearray(os.urandom(1 << 20)) * 40)
    return os.getpid()


def test_one_child_serves_many_and_is_replaced_when_it_grows():
    with Sandbox(pid_of, batch_size=2) as sandbox:
        assert len({result.value for result in sandbox.map(range(8))}) == 1
    with Sandbox(grow, batch_size=2, recycle_mb=20) as sandbox:
        assert len({result.value for result in sandbox.map(range(12))}) > 2


def heavy_when_late(item, seen=[]):  # noqa: B006
    seen.append(item)
    return len(bytearray(len(seen) * (200 << 20)))


def test_an_outcome_does_not_depend_on_the_items_before():
    """The third item fails in a child that two others have filled; it is tried again in a fresh one and passes."""
    with Sandbox(heavy_when_late, memory_mb=500) as sandbox:
        assert all(isinstance(outcome, Result) for outcome in sandbox.map(range(4)))


def test_close_leaves_no_process():
    sandbox = Sandbox(pid_of)
    pid = sandbox.run(0).value
    sandbox.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert sandbox.run(0).value != pid
    sandbox.close()


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
def test_the_child_dies_with_its_parent():
    script = (
        "import os, sys, time\n"
        "from pipeline.extraction.sandbox import Sandbox\n"
        "def report(item):\n"
        "    print(os.getpid(), flush=True)\n"
        "    time.sleep(60)\n"
        "Sandbox(report, timeout_s=60).run(0)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    child = int(process.stdout.readline())
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and _alive(child):
        time.sleep(0.02)
    assert not _alive(child)


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_stderr_of_the_child_stays_in_it(capfd):
    with Sandbox(misbehave) as sandbox:
        list(sandbox.map(["rust", "fine"]))
    assert capfd.readouterr().err == ""
