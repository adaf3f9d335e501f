"""A paper projection: the least time of layers on two GPUs and on this machine, by counting.

    python benchmarks/projection.py             # the tables of docs/performance.md
    python benchmarks/projection.py d_model=256 # of another width

A layer is a list of kernels. Each counts the operations of its matrix products, its other operations, and the bytes
that it must read and write if it keeps everything else on the chip; its least time is that of the slowest of the three.
On this machine the speeds are measured and so are the layers, which shows how far such a sum is from the truth.
"""

import platform
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from longstate import layers, ops
from longstate.bench.limits import copy_speed, sgemm_speed

STEPS = 1_048_576
CHUNK = 16_384
LTI_CHUNK, BLOCK = 32, 64
"""Steps of a chunk of S4D's scan, and of a block of Mamba-2's."""


class Machine(NamedTuple):
    """Speeds: of matrix products and other operations in 1/s, of memory in bytes/s; and bytes of an activation."""

    name: str
    products: float
    others: float
    memory: float
    size: int


GPUS = (
    Machine("A100 80 GB", 312e12, 19.5e12, 2.039e12, 2),
    Machine("H100 SXM", 989e12, 67e12, 3.35e12, 2),
)
"""NVIDIA's data sheets: dense bfloat16 tensor cores, float32, HBM."""


class Kernel(NamedTuple):
    """What one step of one kernel takes: operations of products, other operations, numbers moved."""

    name: str
    products: float
    others: float
    numbers: float

    def seconds(self, machine: Machine) -> float:
        """The least time of a step."""
        moved = self.numbers * machine.size / machine.memory
        return max(self.products / machine.products, self.others / machine.others, moved)


def linear(name: str, inputs: int, outputs: int) -> Kernel:
    """A map of every step; its weights are read once a chunk, which does not count."""
    return Kernel(name, 2 * inputs * outputs, 0, inputs + outputs)


def s4d(H: int, N: int = 64) -> list[Kernel]:
    """A chunked scan, whose small products are not shared by features and so no tensor core's; GELU, GLU fused."""
    scan = 2 * H * (LTI_CHUNK / 2 + 2 * N)
    return [Kernel("scan", 0, scan, 2 * H), Kernel("output", 4 * H * H, 0, 2 * H)]


def mamba(H: int, N: int = 16) -> list[Kernel]:
    """Four projections, and the convolution and the scan with all pointwise operations inside."""
    E, R = 2 * H, -(-H // 16)
    # A state: two products and an exponential for its decay, two for what comes in, two for the state, two to read it.
    return [
        linear("in_proj", H, 2 * E),
        Kernel("convolution", 0, 12 * E, 2 * E),
        linear("x_proj", E, R + 2 * N),
        linear("dt_proj", R, E),
        Kernel("scan", 0, (8 + 14) * E * N / 2, 4 * E + 2 * N),
        linear("out_proj", E, H),
    ]


def mamba2(H: int, N: int = 128, P: int = 64) -> list[Kernel]:
    """Two projections, the convolution, and the products of blocks."""
    E = 2 * H
    inside = 2 * BLOCK * N + 2 * BLOCK * E + 4 * N * E
    return [
        linear("in_proj", H, 2 * E + 2 * N + E // P),
        Kernel("convolution", 0, 12 * (E + 2 * N), 2 * (E + 2 * N)),
        Kernel("ssd", inside, 3 * BLOCK * E / P, 2 * E + 2 * N),
        Kernel("norm", 0, 12 * E, 3 * E),
        linear("out_proj", E, H),
    ]


def attention(H: int, length: int) -> list[Kernel]:
    """Causal, scores kept on the chip: half of all pairs."""
    return [linear("qkv", H, 3 * H), Kernel("scores", 2 * length * H, 3 * length / 2, 4 * H), linear("out", H, H)]


KINDS: dict[str, Callable[[int], list[Kernel]]] = {"S4D": s4d, "Mamba": mamba, "Mamba2": mamba2}


def total(kernels: list[Kernel], machine: Machine, steps: int) -> float:
    """One kernel after another."""
    return steps * sum(kernel.seconds(machine) for kernel in kernels)


def here() -> Machine:
    """This machine; what is not a product counts at the same speed, which no code without products reaches."""
    speed = 1e9 * sgemm_speed()
    return Machine("this machine", speed, speed, 1e9 * copy_speed(), 4)


def measured(kind: str, d_model: int, steps: int) -> float:
    """Seconds of a layer over so many steps, in chunks that hand on a state."""
    torch.manual_seed(0)
    layer = getattr(layers, kind)(d_model).eval()
    x = torch.randn(1, CHUNK, d_model)
    with torch.inference_mode():
        _, state = layer.forward_with_state(x, layer.initial_state(1))
        begun = time.perf_counter()
        for _ in range(steps // CHUNK):
            _, state = layer.forward_with_state(x, state)
    return time.perf_counter() - begun


def show(seconds: float) -> str:
    """Milliseconds or seconds."""
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def forward_table(d_model: int, mine: Machine) -> None:
    """A million steps forward."""
    machines = (*GPUS, mine)
    print(f"\nForward over {STEPS:,} steps, d_model {d_model}, in chunks of {CHUNK:,}\n")
    print(f"| layer | operations a step | {' | '.join(m.name for m in machines)} | measured here | x its sum |")
    print(f"|---|---{'|---' * len(machines)}|---|---|")
    for kind, kernels_of in KINDS.items():
        kernels = kernels_of(d_model)
        operations = sum(kernel.products + kernel.others for kernel in kernels)
        least = [total(kernels, machine, STEPS) for machine in machines]
        seconds = measured(kind, d_model, STEPS // 8) * 8
        cells = " | ".join(show(one) for one in least)
        print(f"| {kind} | {operations:,.0f} | {cells} | {show(seconds)} | {seconds / least[-1]:.1f} |", flush=True)
    kernels = attention(d_model, STEPS)
    cells = " | ".join(show(total(kernels, machine, STEPS)) for machine in machines)
    operations = sum(kernel.products + kernel.others for kernel in kernels)
    print(f"| Attention, all pairs | {operations:,.0f} | {cells} | - | - |")


def kernel_table(d_model: int) -> None:
    """Which limit each kernel meets on the first GPU."""
    gpu = GPUS[0]
    print(f"\nWhere a step of a layer of {d_model} goes on an {gpu.name}, ns\n")
    print("| layer | kernel | products | other operations | memory |\n|---|---|---|---|---|")
    for kind, kernels_of in KINDS.items():
        for kernel in kernels_of(d_model):
            times = (
                kernel.products / gpu.products,
                kernel.others / gpu.others,
                kernel.numbers * gpu.size / gpu.memory,
            )
            cells = " | ".join(f"**{1e9 * t:.2f}**" if t == max(times) else f"{1e9 * t:.2f}" for t in times)
            print(f"| {kind} | {kernel.name} | {cells} |")


def main() -> None:
    """Print the tables."""
    d_model = 768
    for argument in sys.argv[1:]:
        name, _, value = argument.partition("=")
        if name != "d_model" or not value.isdecimal() or int(value) < 64 or int(value) % 64:
            raise SystemExit(f"{argument} is not understood; write d_model=WIDTH, a multiple of 64.")
        d_model = int(value)
    ops.set_up_allocator()
    mine = here()
    today, torch_version = time.strftime("%Y-%m-%d"), torch.__version__
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch_version}, {today}")
    print(f"{mine.products / 1e9:.0f} GFLOP/s of float32 matrix products, {mine.memory / 1e9:.1f} GB/s of copies")
    forward_table(d_model, mine)
    kernel_table(d_model)


if __name__ == "__main__":
    main()
