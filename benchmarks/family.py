"""Every causal layer of the configurations beside S4D: time of a training step, memory, state, and one step.

`python benchmarks/family.py` measures at B = 8, L = 4096, d_model = 128; `python benchmarks/family.py length` from 1k
to 64k at B = 1, d_model = 64, with the fitted powers of L, and leaves a layer out where the length before took it more
than two seconds (minutes in all). Names of layers, as in `kind`, limit either to these.

Layers have their default settings; a filter of limited length is as long as the sequence. All processes have
`set_up_allocator` and the threads of OMP_NUM_THREADS. Times of one table come from one process in alternating rounds
(medians), peaks of memory each from a process of its own (`ru_maxrss`, less that of a process with the input alone).
"""

import dataclasses
import json
import math
import platform
import resource
import subprocess
import sys
import time
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from longstate import ops
from longstate.layers import CausalLayer
from longstate.models import build_layer
from longstate.models.build_layer import CAUSAL

SIZES = (8, 4096, 128)
LENGTHS = tuple(1024 * 4**power for power in range(4))
FITTED = LENGTHS[-3:]
ROUNDS = 7
STEPS = 200
LONGEST = 2.0
"""Seconds of a training step after which a layer is not measured again, nor at larger lengths."""
REFERENCE = "s4d"
KINDS = {config.kind: config for config in CAUSAL}


def make(kind: str, length: int, d_model: int) -> CausalLayer[Any]:
    """A layer with its default settings."""
    config = KINDS[kind]()
    limits = {field.name: length for field in dataclasses.fields(config) if field.name == "filter_length"}
    torch.manual_seed(0)
    return build_layer(dataclasses.replace(config, **limits), d_model)


def train_once(layer: CausalLayer[Any], x: Tensor) -> float:
    """Seconds of a forward and a backward pass."""
    layer.zero_grad()
    begun = time.perf_counter()
    layer(x).sum().backward()
    return time.perf_counter() - begun


def step_times(kinds: list[str]) -> dict[str, list[float]]:
    """Seconds of the training steps of each layer, in alternating rounds."""
    batch, length, d_model = SIZES
    x = torch.randn(batch, length, d_model, requires_grad=True)
    layers = {kind: make(kind, length, d_model) for kind in kinds}
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(ROUNDS + 1):
        for kind, layer in layers.items():
            seconds = train_once(layer, x)
            if number:  # the first round warms up
                times[kind].append(seconds)
    return times


def streaming(kind: str) -> tuple[int, float]:
    """Bytes of the state of one sequence after L elements, and seconds of one more."""
    _, length, d_model = SIZES
    layer = make(kind, length, d_model).eval()
    with torch.no_grad():
        _, state = layer.forward_with_state(torch.randn(1, length, d_model), layer.initial_state(1))
        leaves, _ = _pytree.tree_flatten(state)
        size = sum(leaf.numel() * leaf.element_size() for leaf in leaves)
        constants, x_t, times = layer.constants(), torch.randn(1, d_model), []
        for _ in range(STEPS):
            begun = time.perf_counter()
            _, state = layer.step(x_t, state, constants=constants)
            times.append(time.perf_counter() - begun)
    return size, median(times)


def measure(kind: str, batch: int, length: int, d_model: int) -> dict[str, float]:
    """In this process: the fastest of three training steps in seconds, and the peak of resident memory in bytes."""
    x = torch.randn(batch, length, d_model, requires_grad=True)
    seconds = 0.0
    if kind != "nothing":
        layer = make(kind, length, d_model)
        first = train_once(layer, x)
        seconds = first if first > LONGEST else min(train_once(layer, x) for _ in range(3))
    else:
        (x * x).sum().backward()
    return {"seconds": seconds, "bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


def measure_apart(kind: str, batch: int, length: int, d_model: int) -> dict[str, float]:
    """`measure` in a fresh process."""
    command = [sys.executable, __file__, "measure", kind, str(batch), str(length), str(d_model)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{' '.join(command[2:])} failed:\n{result.stderr}")
    return json.loads(result.stdout)


def family(kinds: list[str]) -> None:
    """The table at one size."""
    batch, length, d_model = SIZES
    # Peaks come first: Linux counts what the parent had resident when it started a process as that process's own.
    empty = measure_apart("nothing", *SIZES)["bytes"]
    peaks = {kind: measure_apart(kind, *SIZES)["bytes"] - empty for kind in kinds}
    times = step_times(kinds)
    print(f"\nB = {batch}, L = {length:,}, d_model = {d_model}, float32\n")
    print("| layer | training step, ms | against S4D | peak memory, GB | state, kB | one step, µs |")
    print("|---|---|---|---|---|---|")
    for kind in kinds:
        ratio = median(mine / base for mine, base in zip(times[kind], times[REFERENCE], strict=True))
        size, seconds = streaming(kind)
        print(
            f"| {kind} | {1e3 * median(times[kind]):.0f} | {ratio:.2f} | {peaks[kind] / 1e9:.2f} | {size / 1e3:.1f} "
            f"| {1e6 * seconds:.0f} |",
            flush=True,
        )


def lengths(kinds: list[str]) -> None:
    """The tables over lengths: time and memory of a training step, and the powers of L that they follow."""
    empty = {length: measure_apart("nothing", 1, length, 64)["bytes"] for length in LENGTHS}
    rows: dict[str, dict[int, dict[str, float]]] = {}
    for kind in kinds:
        rows[kind] = {}
        for length in LENGTHS:
            found = measure_apart(kind, 1, length, 64)
            rows[kind][length] = found | {"bytes": found["bytes"] - empty[length]}
            if found["seconds"] > LONGEST:
                break
    for title, name, unit in (("training step, s", "seconds", 1.0), ("peak memory, MB", "bytes", 1e6)):
        print(f"\nB = 1, d_model = 64, float32: {title}\n")
        heads = " | ".join(f"{length // 1024}k" for length in LENGTHS)
        print(f"| layer | {heads} | power of L, {FITTED[0] // 1024}k to {FITTED[-1] // 1024}k |")
        print("|---" * (len(LENGTHS) + 2) + "|")
        for kind, found in rows.items():
            cells = [f"{found[length][name] / unit:.3g}" if length in found else "" for length in LENGTHS]
            fitted = {length: found[length][name] for length in FITTED if length in found}
            power = f"{slope(fitted):.2f}" if len(fitted) > 1 else ""
            print(f"| {kind} | {' | '.join(cells)} | {power} |")


def slope(values: dict[int, float]) -> float:
    """The power p of the least-squares fit value ~ length^p."""
    x, y = [math.log(length) for length in values], [math.log(max(value, 1e-9)) for value in values.values()]
    x_mean, y_mean = sum(x) / len(x), sum(y) / len(y)
    products = sum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True))
    return products / sum((a - x_mean) ** 2 for a in x)


def main() -> None:
    """Print the tables that are asked for."""
    ops.set_up_allocator()
    arguments = sys.argv[1:]
    if arguments[:1] == ["measure"]:
        print(json.dumps(measure(arguments[1], *map(int, arguments[2:]))))
        return
    over_lengths = arguments[:1] == ["length"]
    asked = arguments[over_lengths:]
    unknown = [kind for kind in asked if kind not in KINDS]
    if unknown:
        raise SystemExit(f"{unknown[0]} is no layer; choose from {', '.join(KINDS)}.")
    kinds = [REFERENCE, *(kind for kind in asked or KINDS if kind != REFERENCE)]
    today = time.strftime("%Y-%m-%d")
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {today}")
    (lengths if over_lengths else family)(kinds)


if __name__ == "__main__":
    main()
