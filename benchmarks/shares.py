"""Where the time goes: the shares of matrix products, scan and its system, convolution, output stage and the rest.

`python benchmarks/shares.py` prints a Markdown table of one run in one thread as `torch.profiler` sees it: a training
step of Mamba, Mamba-2, S4D and S4, and the prefill and one decoded token of a language model of mamba-130m's shape.
Names of its lines (`mamba`, `s4d`, ...) limit it. Operators are grouped by their names: products that a compiled kernel
makes within itself count as that kernel. The profiler sees none of the operators of a decoded token, for all layers are
one compiled call and the head is another: a line under the table has the shares of the two.
"""

import platform
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch.profiler import ProfilerActivity, profile

from longstate import S4, S4D, Mamba, Mamba2, ops
from longstate.bench.case import Work
from longstate.bench.cases.language_model import D_MODEL, LAYERS, TOKENS, VOCABULARY, config
from longstate.bench.layer_work import train
from longstate.models import LanguageModel
from longstate.ops import _native

PARTS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::_addmm_activation"),
    "scan": ("selective_scan", "ssd", "lti_scan"),
    "system": ("lti_factors", "lti_kernel"),
    "short convolution": ("causal_conv1d",),
    "output stage": ("gelu_map",),
}
"""The operators of each part, by what their names hold; all others are the rest."""
REST = "rest"
NAMED = 3
"""How many operators of the rest are named."""


def prefill() -> Work:
    """A prompt of 1,024 tokens."""
    model = LanguageModel(config(LAYERS)).eval()
    ids = torch.randint(VOCABULARY, (1, 1024))

    def run() -> object:
        with torch.inference_mode():
            return model.prefill(ids, model.initial_state(1))

    return run


CASES: dict[str, tuple[str, Callable[[], Work]]] = {
    "mamba": ("Mamba, 2,048 steps, forward and backward", lambda: train(Mamba(768), 1, 2048, 768)),
    "mamba2": ("Mamba-2, 2,048 steps, forward and backward", lambda: train(Mamba2(768), 1, 2048, 768)),
    "s4d": ("S4D, 8 rows of 16,384, forward and backward", lambda: train(S4D(128, 64), 8, 16384, 128)),
    "s4": ("S4, 8 rows of 16,384, forward and backward", lambda: train(S4(128, 64), 8, 16384, 128)),
    "s4d_short": ("S4D, 8 rows of 1,024, forward and backward", lambda: train(S4D(128, 64), 8, 1024, 128)),
    "s4_short": ("S4, 8 rows of 1,024, forward and backward", lambda: train(S4(128, 64), 8, 1024, 128)),
    "prefill": (f"Prefill of 1,024 tokens, {LAYERS} layers of Mamba, {D_MODEL}", prefill),
}


def part_of(operator: str) -> str:
    """The part that an operator belongs to."""
    return next((part for part, names in PARTS.items() if any(name in operator for name in names)), REST)


def spent(work: Work) -> Counter[str]:
    """Microseconds in each operator itself, over one run after two for warmth."""
    work()
    work()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        work()
    return Counter({event.key: event.self_cpu_time_total for event in found.key_averages()})


def row(title: str, times: Counter[str]) -> str:
    """A line of the table."""
    total = sum(times.values())
    parts: Counter[str] = Counter()
    for operator, microseconds in times.items():
        parts[part_of(operator)] += microseconds
    rest = Counter({operator: taken for operator, taken in times.items() if part_of(operator) == REST})
    largest = ", ".join(f"{name.removeprefix('aten::')} {taken / total:.0%}" for name, taken in rest.most_common(NAMED))
    cells = [f"{parts[part] / total:.0%}" for part in (*PARTS, REST)]
    return f"| {title} | {total / 1e3:.3g} ms | {' | '.join(cells)}: {largest} |"


def decode() -> str:
    """A sentence about one decoded token: its calls of the compiled library, by the clock, and all around them."""
    model, token = LanguageModel(config(LAYERS)).eval(), torch.tensor([7])
    calls: dict[str, float] = defaultdict(float)
    run = _native.run

    def timed(kernel: str, *arguments: Any) -> None:
        begun = time.perf_counter()
        run(kernel, *arguments)
        calls[kernel] += time.perf_counter() - begun

    with torch.inference_mode():
        constants, state = model.constants(), model.initial_state(1)
        model.step(token, state, constants=constants)
        with mock.patch.object(_native, "run", timed):
            begun = time.perf_counter()
            for _ in range(TOKENS):
                model.step(token, state, constants=constants)
            total = time.perf_counter() - begun
    shares = ", ".join(f"`{kernel}` {taken / total:.0%}" for kernel, taken in calls.items())
    around = f"all around them {1 - sum(calls.values()) / total:.0%}"
    return f"One decoded token of the same, {1e3 * total / TOKENS:.3g} ms: {shares}, {around}."


def main() -> None:
    """Print the table."""
    asked = sys.argv[1:] or [*CASES, "decode"]
    unknown = [name for name in asked if name not in (*CASES, "decode")]
    if unknown:
        raise SystemExit(f"{unknown[0]} is no line of the table; choose from {', '.join(CASES)}, decode.")
    ops.set_up_allocator()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{platform.machine()}, one thread, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}\n")
    cases = [name for name in asked if name in CASES]
    if cases:
        print(f"| | all | {' | '.join((*PARTS, REST))} |\n| --- {'| ---: ' * (len(PARTS) + 1)}| --- |")
    for name in cases:
        title, make = CASES[name]
        print(row(title, spent(make())), flush=True)
    if "decode" in asked:
        print("\n" + decode())


if __name__ == "__main__":
    main()
