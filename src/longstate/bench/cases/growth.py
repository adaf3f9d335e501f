"""How time and memory of whole sequences grow up to a million steps, and that chunks keep memory constant."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from longstate import layers
from longstate.bench.case import Case, Side, Work
from longstate.bench.layer_work import infer
from longstate.layers import CausalLayer

D_MODEL, CHUNK = 64, 16_384
_DEFAULT = ("S4D", "S4", "DSS", "LSSL", "S5", "LRU", "LinOSS", "GSS", "EMA", "H3", "Hyena", "LongConv")
_SELECTIVE = ("Mamba", "Mamba2", "Mamba3")
_LAYERS: dict[str, Callable[[int], CausalLayer[Any]]] = {
    **{name: getattr(layers, name) for name in (*_DEFAULT, *_SELECTIVE)},
    "HippoMemory": partial(layers.HippoMemory, order=16),  # 16 outputs a feature
    "Attention": partial(layers.Attention, window=512),
    "Block-State": layers.BlockStateTransformer,
    "ParallelHybrid": partial(layers.ParallelHybrid, window=512),
}
_CHUNKED = ("S4D", "S4", "Mamba", "Mamba2")


def whole(length: int, *, layer: str) -> Work:
    """A whole sequence at once."""
    return infer(_LAYERS[layer](D_MODEL), 1, length, D_MODEL)


def whole_bytes(length: int, *, layer: str) -> int:
    """What a step was seen to take at most: every layer runs a million steps alone, once."""
    large = {"HippoMemory": 10_000, "ParallelHybrid": 14_000, "Block-State": 10_000}
    return large.get(layer, 6_000) * length


def chunked(length: int, *, layer: str) -> Work:
    """The same number of steps in chunks that hand on a state; inputs are made and outputs dropped chunk by chunk."""
    model = _LAYERS[layer](D_MODEL).eval()

    def run() -> object:
        state = model.initial_state(1)
        with torch.no_grad():
            for _ in range(0, length, CHUNK):
                _, state = model.forward_with_state(torch.randn(1, min(CHUNK, length), D_MODEL), state)
        return state

    return run


GROWTH = Case(
    name="growth",
    title=f"Forward over one sequence, d_model {D_MODEL}, default settings (attention sees 512 steps), no gradients",
    axis="length",
    sizes=(16_384, 65_536, 262_144, 1_048_576),
    quick=(1024, 2048),
    sides=tuple(
        Side(name=name, prepare=partial(whole, layer=name), needs=partial(whole_bytes, layer=name)) for name in _LAYERS
    ),
    rounds=1,
)

CHUNKS = Case(
    name="growth_in_chunks",
    title=f"Forward over one sequence in chunks of {CHUNK:,} steps with a carried state, d_model {D_MODEL}",
    axis="length",
    sizes=(16_384, 65_536, 262_144, 1_048_576),
    quick=(1024, 2048),
    sides=tuple(Side(name=name, prepare=partial(chunked, layer=name)) for name in _CHUNKED),
    rounds=1,
)
