"""Prints the figures of the README: accuracy of kernels and views, peak memory, cost of importing, endless streaming.

`python benchmarks/figures.py` prints all of it; kernels, views, memory, allocator, imports, streaming name its parts.
"""

import platform
import subprocess
import sys
import time

import torch

from longstate import ops
from longstate.layers import S4, S4D
from longstate.models import BackboneConfig, ClassifierConfig, S4Config, S4DConfig, SequenceClassifier


def kernels() -> None:
    """Relative error of float32 kernels, every channel judged by its own maximum, worst of 8 steps dt 1e-3 .. 0.1."""
    lengths = (1000, 16384, 262144, 1048576)
    print("\nfloat32 kernel against float64, worst channel\n" + " " * 16 + "".join(f"{n:>12,}" for n in lengths))
    systems = {
        "S4-LegS": S4(8, 64, init="legs"),
        "S4-LegT": S4(8, 64, init="legt"),
        "S4-Fourier": S4(8, 64, init="fourier"),
        "S4D-Lin": S4D(8, 64, init="lin"),
        "S4D-Inv": S4D(8, 64, init="inv"),
        "S4D-LegS": S4D(8, 64, init="legs"),
    }
    for name, layer in systems.items():
        layer.log_dt.data = torch.logspace(-3, -1, 8).log()
        with torch.no_grad():
            errors = [_kernel_error(layer.system(), length) for length in lengths]
        print(f"{name:16}" + "".join(f"{error:12.1e}" for error in errors))


def _kernel_error(system: ops.LTISystem, length: int) -> float:
    exact = ops.lti_kernel(system, length, dtype=torch.float64)
    return float(((ops.lti_kernel(system, length) - exact).abs().amax(-1) / exact.abs().amax(-1)).max())


def views() -> None:
    """Largest difference between the views of an 8-layer float32 model, relative to the largest output."""
    print("\nviews of an 8-layer model, float32, L = 4096 (difference / largest output)")
    for name, layer in (("S4", S4Config()), ("S4D", S4DConfig())):
        backbone = BackboneConfig(d_model=32, n_layers=8, layer=layer)
        model = SequenceClassifier(ClassifierConfig(d_input=4, classes=("a", "b", "c"), backbone=backbone)).eval()
        x = torch.randn(2, 4096, 4)
        with torch.no_grad():
            whole, _ = model.forward_with_state(x, model.initial_state(2))
            state, chunks = model.initial_state(2), []
            for part in x.split([1, 1000, 95, 3000], dim=1):
                y, state = model.forward_with_state(part, state)
                chunks.append(y)
            state, steps, constants = model.initial_state(2), [], model.constants()
            for t in range(x.shape[1]):
                y, state = model.step(x[:, t], state, constants=constants)
                steps.append(y)
        scale = whole.abs().max()
        chunked = (torch.cat(chunks, 1) - whole).abs().max() / scale
        stepped = (torch.stack(steps, 1) - whole).abs().max() / scale
        print(f"{name:16}chunked {chunked:.1e}   stepped {stepped:.1e}")


def memory() -> None:
    """Peak memory of one layer forward and backward, each in a process of its own."""
    print("\nforward + backward, B = 1, H = 256, N = 64, L = 16384, float32 (whole process)")
    for name in ("S4D", "S4"):
        code = (
            "import torch, resource, time; from longstate.layers import S4, S4D; torch.set_num_threads(2);"
            f"m, x = {name}(256, 64), torch.randn(1, 16384, 256, requires_grad=True);"
            "[m(x).sum().backward() for _ in range(2)]; t = time.perf_counter(); m(x).sum().backward();"
            "print(time.perf_counter() - t, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)"
        )
        seconds, peak = _run(code).split()
        print(f"{name:16}{float(seconds):6.2f} s   {float(peak):5.2f} GB peak")


def allocator() -> None:
    """One training step of a residual S4D with and without `set_up_allocator`: best of three processes' medians."""
    step = (
        "import statistics, time, torch; from longstate import S4D, Residual;"
        "m, x = Residual(S4D(128, 64), dropout=0.1), torch.randn(8, 4096, 128, requires_grad=True)\n"
        "def run():\n    t = time.perf_counter(); m(x).sum().backward(); return time.perf_counter() - t\n"
        "[run() for _ in range(3)]; print(statistics.median(run() for _ in range(7)))"
    )
    ready = "import longstate; longstate.set_up_allocator()\n"
    plain, tuned = ([float(_run(code + step)) for _ in range(3)] for code in ("", ready))
    print(f"\na training step: {min(plain):.3f} s; after set_up_allocator {min(tuned):.3f} s")


def imports() -> None:
    """Time to use a layer beside `import torch`, and time of `longstate --help`; best of 5."""
    torch_alone = min(_seconds("import torch") for _ in range(5))
    layer = min(_seconds("import torch, longstate; longstate.S4D(4, 8)(torch.zeros(1, 8, 4))") for _ in range(5))
    bare = min(_seconds("import torch; torch.zeros(1, 8, 4).exp()") for _ in range(5))
    command = [sys.executable, "-m", "longstate.cli", "--help"]
    help_time = min(_clock(command) for _ in range(5))
    print(f"\nimport torch {torch_alone:.2f} s; torch and one operator {bare:.2f} s; using a layer {layer:.2f} s")
    print(f"longstate --help {help_time:.2f} s")


def streaming() -> None:
    """Resident memory before and after a million steps."""
    code = (
        "import torch, resource; from longstate import Session, SequenceClassifier;"
        "from longstate.models import BackboneConfig, ClassifierConfig;"
        "m = SequenceClassifier(ClassifierConfig(d_input=1, classes=('a', 'b'),"
        " backbone=BackboneConfig(d_model=8, n_layers=1))).eval(); s = Session(m); x = torch.zeros(1, 1)\n"
        "for n in range(1_000_001):\n    s.push(x)\n"
        "    if n in (10_000, 1_000_000):\n"
        "        print(n, int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize() // 1024)"
    )
    start = time.perf_counter()
    lines = _run(code).splitlines()
    print(f"\nstreaming, resident kB after n steps: {'; '.join(lines)}   ({time.perf_counter() - start:.0f} s)")


def _run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def _seconds(code: str) -> float:
    return _clock([sys.executable, "-c", code])


def _clock(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    return time.perf_counter() - start


def main() -> None:
    """Print the chosen tables."""
    torch.manual_seed(0)
    parts = {
        "kernels": kernels,
        "views": views,
        "memory": memory,
        "allocator": allocator,
        "imports": imports,
        "streaming": streaming,
    }
    chosen = sys.argv[1:] or list(parts)
    today = time.strftime("%Y-%m-%d")
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {today}")
    for name in chosen:
        parts[name]()


if __name__ == "__main__":
    main()
