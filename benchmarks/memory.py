"""Prints the figures of docs/memory.md: errors of memories on recordings, and what they cost; draws its picture.

`python benchmarks/memory.py` prints all of it; errors and cost name its parts. `picture FILE.png` draws, and needs
`pip install matplotlib`. The ECG is that of PyWavelets (`pip install PyWavelets`), the acceleration that of seglearn
(`pip install --no-deps seglearn`).
"""

import platform
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.polynomial import Legendre

from longstate import HippoMemory, data
from longstate.diagnostics.memory_plot import MemoryPanel, draw_memory

ORDERS = (16, 32, 64, 128)
WATCH_WINDOW, ECG_WINDOW = 500, 400


def acceleration() -> np.ndarray:
    """The first channel of the first smartwatch recording, standardised: 1,333 elements at 50 Hz."""
    x = np.asarray(data.read("watch").x[0][:, 0], dtype=np.float64)
    return (x - x.mean()) / x.std()


def ecg() -> np.ndarray:
    """The electrocardiogram of PyWavelets, standardised: 1,024 elements, whose sampling rate is not given."""
    import pywt

    x = pywt.data.ecg().astype(np.float64)
    return (x - x.mean()) / x.std()


def remembered(u: np.ndarray, order: int, measure: str, window: int | None) -> np.ndarray:
    """What a float32 memory at the end of u says of its window."""
    memory = HippoMemory(1, order, measure=measure, window=window)
    x = torch.from_numpy(u).float()[None, :, None]
    _, state = memory.forward_with_state(x, memory.initial_state(1))
    return memory.reconstruct(state, torch.arange(window or len(u)))[0].flip(0)[:, 0].double().numpy()


def distance(found: np.ndarray, u: np.ndarray) -> float:
    """Root mean square distance from the end of u."""
    return float(np.sqrt(np.mean((found - u[-len(found) :]) ** 2)))


def best(u: np.ndarray, order: int) -> float:
    """That of the best polynomial with as many coefficients."""
    place = (np.arange(len(u)) + 0.5) / len(u)
    return distance(Legendre.fit(place, u, order - 1, domain=[0, 1])(place), u)


def errors() -> None:
    """Root mean square errors, in standard deviations of the signal."""
    print(
        "\nroot mean square error of the past, in standard deviations\n" + " " * 44 + "".join(f"{n:>8}" for n in ORDERS)
    )
    for name, u, window in (("acceleration", acceleration(), WATCH_WINDOW), ("ECG", ecg(), ECG_WINDOW)):
        rows = {f"{name}, all {len(u)}: legs": ("legs", None), "": (None, None)}
        rows |= {f"{name}, last {window}: {measure}": (measure, window) for measure in ("legt", "fourier")}
        rows["best"] = (None, window)
        for title, (measure, past) in rows.items():
            if measure is None:
                line, title = [best(u[-(past or len(u)) :], order) for order in ORDERS], "best polynomial"
            else:
                line = [distance(remembered(u, order, measure, past), u) for order in ORDERS]
            print(f"{title:44}" + "".join(f"{value:8.3f}" for value in line))


def cost() -> None:
    """Time of float32 memories, one thread, the least of three runs."""
    torch.set_num_threads(1)
    print("\nmicroseconds an element, order 64" + "".join(f"{n:>10,}" for n in (1000, 4000, 16000)) + "      step")
    kinds = {"legs": {}, "legs, bilinear": {"rule": "bilinear"}, "legt": {"measure": "legt", "window": 1000}}
    for name, options in kinds.items():
        for channels in (1, 8):
            memory = HippoMemory(channels, 64, **options)
            line = [_least(partial(memory, torch.randn(1, n, channels))) / n for n in (1000, 4000, 16000)]
            line.append(_least(partial(_steps, memory, channels)) / 200)
            title = name + (", 8 channels" if channels == 8 else "")
            print(f"{title:33}" + "".join(f"{1e6 * value:10.1f}" for value in line))


def _steps(memory: HippoMemory, channels: int) -> None:
    state, constants, x_t = memory.initial_state(1), memory.constants(), torch.randn(1, channels)
    for _ in range(200):
        _, state = memory.step(x_t, state, constants=constants)


def _least(run: Callable[[], object]) -> float:
    seconds = []
    for _ in range(3):
        start = time.process_time()
        with torch.no_grad():
            run()
        seconds.append(time.process_time() - start)
    return min(seconds)


def picture(path: str) -> None:
    """Acceleration in the memory of all of the past, the ECG in a sliding one."""
    columns = []
    for u, measure, window in ((acceleration(), "legs", None), (ecg(), "legt", ECG_WINDOW)):
        panels = []
        for order in ORDERS:
            found = remembered(u, order, measure, window)
            panels.append(MemoryPanel(u, found, f"{order} coefficients, error {distance(found, u):.2f}"))
        columns.append(panels)
    titles = ["Acceleration of a wrist, all of the past (legs)", f"ECG, the last {ECG_WINDOW} elements (legt)"]
    draw_memory(path, columns, sampling_rates=[50.0, None], titles=titles)


if __name__ == "__main__":
    if sys.argv[1:2] == ["picture"]:
        picture(sys.argv[2])
    else:
        print(f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}")
        for part in sys.argv[1:] or ("errors", "cost"):
            {"errors": errors, "cost": cost}[part]()
