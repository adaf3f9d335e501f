"""The picture of a memory: drawn in every format, and its errors."""

import numpy as np
import pytest

from longstate._checks import InputError
from longstate.diagnostics.memory_plot import MemoryPanel, draw_memory

SIGNAL = np.sin(np.arange(80) / 9)
PANELS = [MemoryPanel(SIGNAL, SIGNAL, "all"), MemoryPanel(SIGNAL, SIGNAL[-20:], "the end")]


@pytest.mark.parametrize(("name", "magic"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")])
def test_pictures(tmp_path, name: str, magic: bytes) -> None:
    draw_memory(tmp_path / name, [PANELS, PANELS], sampling_rates=[50.0, None], titles=["one", "other"])
    assert (tmp_path / name).read_bytes().startswith(magic)


def test_a_constant_signal_has_room(tmp_path) -> None:
    draw_memory(tmp_path / "a.png", [[MemoryPanel(np.ones(5), np.ones(5))]])


@pytest.mark.parametrize(
    ("columns", "options", "text"),
    [
        ([], {}, "`columns` hold no panels, but one number of at least 1 is needed for all"),
        ([[]], {}, "`columns` hold 0 panels"),
        ([PANELS, PANELS[:1]], {}, "`columns` hold 1, 2 panels"),
        (
            [PANELS],
            {"titles": ["a", "b"]},
            "there are 1 `sampling_rates` and 2 `titles`, but one for each of the 1 col",
        ),
        (
            [[MemoryPanel(SIGNAL[:3], SIGNAL)]],
            {},
            "a panel remembers 80 elements of a signal of 3, but between 1 and all",
        ),
    ],
)
def test_errors_say_what_to_do(tmp_path, columns, options, text: str) -> None:
    with pytest.raises(InputError, match=text):
        draw_memory(tmp_path / "a.png", columns, **options)
