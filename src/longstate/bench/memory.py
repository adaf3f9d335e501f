"""The peak memory of one run, in a fresh process: what it adds to a process that holds modules and inputs already."""

import multiprocessing
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from longstate import ops
from longstate.bench.case import NotInstalled, Work

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Alone:
    """One first run in a process of its own.

    Attributes:
        seconds: Of the run; None if it did not come to its end.
        cpu: The processor's seconds, of all threads together.
        peak: Bytes it added at most; None where the system does not say.
        note: Why there is no run.
    """

    seconds: float | None = None
    cpu: float = 0.0
    peak: int | None = None
    note: str = ""


def run_alone(prepare: Callable[[int], Work], size: int, threads: int) -> Alone:
    """Run the work of one side once in a fresh process.

    Args:
        prepare: Of the side; a function of a module, or a partial of one.
        size: What to prepare for.
        threads: Of torch.

    Returns:
        Its time and its peak; a note instead, if a package is missing or the system ended it.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, prepare, size, threads))
    process.start()
    sender.close()
    try:
        found = receiver.recv()
    except EOFError:
        found = None
    process.join()
    if isinstance(found, Exception):
        raise found
    return found if found is not None else Alone(note=f"ended by the system (exit code {process.exitcode})")


def available_memory() -> int | None:
    """Bytes that new work may take; None where the system does not say."""
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        return None
    return None if found is None else 1024 * int(found[1])


def _child(sender: Connection, prepare: Callable[[int], Work], size: int, threads: int) -> None:
    torch.set_num_threads(threads)
    ops.set_up_allocator()
    try:
        sender.send(_measured(prepare, size))
    except NotInstalled as error:
        sender.send(Alone(note=str(error)))
    except Exception as error:  # raised again by the parent, which is who knows what to say
        sender.send(error)


def _measured(prepare: Callable[[int], Work], size: int) -> Alone:
    work = prepare(size)
    before = _restart_peak()
    start, cpu = time.perf_counter(), time.process_time()
    kept = work()
    taken, cpu = time.perf_counter() - start, time.process_time() - cpu
    after = _peak()
    del kept
    return Alone(taken, cpu, None if before is None or after is None else max(after - before, 0))


def _restart_peak() -> int | None:
    """Bytes held now; the peak is counted from here on where the system allows it."""
    try:
        _RESET.write_text("5")
    except OSError:
        return _peak()
    return _of_status("VmRSS")


def _peak() -> int | None:
    """The largest resident size of this process so far."""
    # A new process begins with the `ru_maxrss` of its parent on Linux, which may be larger than all of its own.
    found = _of_status("VmHWM")
    if found is not None or sys.platform == "win32":
        return found
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _of_status(name: str) -> int | None:
    try:
        found = re.search(rf"{name}:\s+(\d+) kB", _STATUS.read_text())
    except OSError:
        return None
    return None if found is None else 1024 * int(found[1])
