"""What a training step and a decoded token cost by how the threads of OpenMP wait for each other.

`python benchmarks/waiting.py` measures S4D and a language model of mamba-130m's shape alone on the machine,
`--beside 2` next to two processes that multiply matrices. How threads wait is read from the environment when torch is
loaded, so each way has a process of its own; the processes take turns (medians of rounds, ratios within a round), two
threads each. A thread that spins for a while before it sleeps wakes early; beside other programs it takes their time.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from statistics import median
from typing import NamedTuple

from longstate.cli.entry import WAITING

WAYS: dict[str, Mapping[str, str]] = {
    "nothing set": {},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "the commands' own": WAITING,
    **{f"PASSIVE, {count:,}": WAITING | {"GOMP_SPINCOUNT": str(count)} for count in (1000, 10000, 30000)},
}
BATCH, D_MODEL, D_STATE, THREADS = 8, 128, 64, 2
LENGTHS = {1024: 8, 16384: 1}
"""How many steps are a turn at each length."""
TOKEN, TOKENS = 0, 8
"""What stands for a decoded token among the lengths, and how many of them are a turn."""
ROUNDS = 5


class Turn(NamedTuple):
    """Milliseconds of a training step or a token, by the clock and of all threads together."""

    wall: float
    cpu: float


def work() -> None:
    """In a process of its own: for every length that comes in, measure a turn and say it."""
    import torch

    from longstate import S4D, ops
    from longstate.bench.cases import language_model

    ops.set_up_allocator()
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    language_model.TOKENS = TOKENS
    layer, decode = S4D(D_MODEL, D_STATE), language_model.decode(1)
    inputs = {length: torch.randn(BATCH, length, D_MODEL, requires_grad=True) for length in LENGTHS}
    for line in sys.stdin:
        length = int(line)
        begun = time.perf_counter(), time.process_time()
        if length == TOKEN:
            decode()
        for _ in range(LENGTHS.get(length, 0)):
            layer.zero_grad()
            layer(inputs[length]).sum().backward()
        each = 1e3 / (TOKENS if length == TOKEN else LENGTHS[length])
        print(each * (time.perf_counter() - begun[0]), each * (time.process_time() - begun[1]), flush=True)


def keep_busy() -> None:
    """In a process of its own: multiply matrices in one thread until it is ended."""
    import torch

    torch.set_num_threads(1)
    x = torch.randn(512, 512)
    while True:
        torch.mm(x, x)


def start(role: str, ways: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """A process of this file, in an environment that says nothing about waiting but `ways`."""
    silent = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    command = [sys.executable, __file__, "--role", role]
    return subprocess.Popen(
        command, env=silent | dict(ways or {}), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def ask(worker: subprocess.Popen[str], length: int) -> Turn:
    """One turn of a process."""
    if worker.stdin is None or worker.stdout is None:
        raise SystemExit("This process was started without pipes.")
    print(length, file=worker.stdin, flush=True)
    wall, cpu = map(float, worker.stdout.readline().split())
    return Turn(wall, cpu)


def measure(workers: Mapping[str, subprocess.Popen[str]], length: int) -> dict[str, list[Turn]]:
    """The turns of each process at a length, after one for warmth."""
    turns: dict[str, list[Turn]] = {way: [] for way in workers}
    for number in range(ROUNDS + 1):
        for way, worker in workers.items():
            turn = ask(worker, length)
            if number:
                turns[way].append(turn)
    return turns


def compare(beside: int) -> None:
    """Print a table for each length."""
    load = f", load {os.getloadavg()[0]:.1f} before" if "getloadavg" in dir(os) else ""
    busy = [start("busy") for _ in range(beside)]
    workers = {way: start("worker", environment) for way, environment in WAYS.items()}
    try:
        print(f"{platform.machine()}, {THREADS} threads of {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}{load}")
        print(f"S4D: B = {BATCH}, d_model = {D_MODEL}, d_state = {D_STATE}, forward and backward; {beside} busy beside")
        for length in (*LENGTHS, TOKEN):
            turns = measure(workers, length)
            what = "decoded token" if length == TOKEN else f"training step, L = {length:,}"
            print(f"\n| {what} | ms | processor, ms | x nothing set |\n| --- | ---: | ---: | ---: |")
            for way, mine in turns.items():
                wall, cpu = median(turn.wall for turn in mine), median(turn.cpu for turn in mine)
                plain = turns["nothing set"]
                ratio = median(turn.wall / other.wall for turn, other in zip(mine, plain, strict=True))
                print(f"| {way} | {wall:.1f} | {cpu:.1f} | {ratio:.2f} |", flush=True)
    finally:
        for process in (*workers.values(), *busy):
            process.kill()
            process.communicate()


def main() -> None:
    """Read the arguments and do what they say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beside", type=int, default=0, metavar="N", help="busy processes beside")
    parser.add_argument("--role", choices=("worker", "busy"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.role == "worker":
        work()
    elif given.role == "busy":
        keep_busy()
    else:
        compare(given.beside)


if __name__ == "__main__":
    main()
