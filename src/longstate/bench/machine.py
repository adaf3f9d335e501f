"""Where a benchmark ran: versions, threads, what the machine multiplies and copies in a second."""

import os
import platform
import time
from dataclasses import dataclass

import torch

from longstate.bench.limits import copy_speed, sgemm_speed


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the figures of one run have in common.

    Attributes:
        day: Of the run.
        processor: Architecture and the widest vectors that PyTorch uses.
        torch: Version.
        threads: Of PyTorch.
        kept: Whether large blocks of memory stay in the process, for all sides alike.
        load: Of the machine in the minute before; None where the system does not say.
        gflops: Of float32 matrix products.
        gbps: Of copies, read and written together.
    """

    day: str
    processor: str
    torch: str
    threads: int
    kept: bool
    load: float | None
    gflops: float
    gbps: float

    def sentence(self) -> str:
        """All of it in a line."""
        load = "" if self.load is None else f", load {self.load:.1f} before"
        kept = "kept in the process (`ops.set_up_allocator`)" if self.kept else "as the system gives it"
        return (
            f"{self.day}, {self.processor}, {self.threads} threads, torch {self.torch}{load}; large blocks of memory "
            f"{kept} for all sides; {self.gflops:.0f} GFLOP/s of float32 matrix products, {self.gbps:.1f} GB/s of "
            "copies (read and written)."
        )


def look_at_machine(*, kept: bool, quick: bool) -> Machine:
    """Measure the machine as it is now.

    Args:
        kept: What `ops.set_up_allocator` said.
        quick: Smaller products and copies.
    """
    return Machine(
        day=time.strftime("%Y-%m-%d"),
        processor=f"{platform.machine()} ({torch.backends.cpu.get_cpu_capability()})",
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        kept=kept,
        load=os.getloadavg()[0] if "getloadavg" in dir(os) else None,
        gflops=sgemm_speed(256, 2) if quick else sgemm_speed(),
        gbps=copy_speed(1 << 20, 2) if quick else copy_speed(),
    )
