"""A layer of Mamba and one of Mamba-2, forward and backward, beside their peers."""

from functools import partial

from torch import nn

from longstate.bench import peers
from longstate.bench.case import Case, Side, Work
from longstate.bench.layer_work import train, without_kernels
from longstate.bench.limits import Product, products
from longstate.layers import Mamba, Mamba2

D_MODEL = 768
_INNER, _STATE, _RANK = 2 * D_MODEL, 16, D_MODEL // 16
_HEADS, _HEAD_DIM, _STATE_2, _BLOCK = 24, 64, 128, 64


def mamba(length: int, *, native: bool) -> Work:
    """Ours; without native kernels if asked."""
    make = partial(train, Mamba(D_MODEL), 1, length, D_MODEL)
    return make() if native else without_kernels(make)


def mambapy(length: int) -> Work:
    """That of mamba.py."""
    return train(peers.mambapy_layer(D_MODEL), 1, length, D_MODEL)


def transformers_mamba(length: int) -> Work:
    """That of transformers."""
    return train(peers.transformers_mamba_layer(D_MODEL), 1, length, D_MODEL)


def lstm(length: int) -> Work:
    """PyTorch's LSTM of the same width."""
    return train(peers.Recurrent(nn.LSTM, D_MODEL), 1, length, D_MODEL)


def attention(length: int) -> Work:
    """A block of a transformer of the same width."""
    return train(peers.TransformerBlock(D_MODEL), 1, length, D_MODEL)


def mamba_shapes(length: int) -> list[Product]:
    """The four projections of Mamba."""
    return [
        Product(length, D_MODEL, 2 * _INNER),
        Product(length, _INNER, _RANK + 2 * _STATE),
        Product(length, _RANK, _INNER),
        Product(length, _INNER, D_MODEL),
    ]


def mamba_products(length: int) -> Work:
    """Its projections, and nothing else."""
    return products(mamba_shapes(length), copied=2 * length * D_MODEL, backward=True)


def mamba2(length: int) -> Work:
    """Ours."""
    return train(Mamba2(D_MODEL, _STATE_2, head_dim=_HEAD_DIM), 1, length, D_MODEL)


def transformers_mamba2(length: int) -> Work:
    """That of transformers."""
    return train(peers.transformers_mamba2_layer(D_MODEL, _STATE_2, _HEAD_DIM), 1, length, D_MODEL)


def mamba2_products(length: int) -> Work:
    """The projections of Mamba-2, and what its heads multiply in blocks of 64 steps."""
    blocks = -(-length // _BLOCK)
    shapes = [
        Product(length, D_MODEL, 2 * _INNER + 2 * _STATE_2 + _HEADS),
        Product(_BLOCK, _STATE_2, _BLOCK, blocks),
        Product(_BLOCK, _BLOCK, _HEAD_DIM, blocks * _HEADS),
        Product(_INNER, _BLOCK, _STATE_2, blocks),
        Product(_BLOCK, _STATE_2, _INNER, blocks),
        Product(length, _INNER, D_MODEL),
    ]
    return products(shapes, copied=2 * length * D_MODEL, backward=True)


MAMBA = Case(
    name="mamba_layer",
    title="A Mamba layer, d_model 768, one sequence, float32, forward and backward",
    axis="length",
    sizes=(128, 256, 512, 1024, 2048),
    quick=(32,),
    sides=(
        Side(name="longstate", prepare=partial(mamba, native=True)),
        Side(name="longstate, no native kernel", prepare=partial(mamba, native=False)),
        Side(name="mambapy", prepare=mambapy, role="peer"),
        Side(name="transformers", prepare=transformers_mamba, role="peer", largest=256, patient=1024),
        Side(name="LSTM", prepare=lstm, role="peer"),
        Side(name="attention + MLP", prepare=attention, role="peer"),
        Side(name="its matrix products", prepare=mamba_products, role="limit"),
    ),
    notes=(
        "The attention block holds twice the parameters of a Mamba layer, the LSTM 1.3 times as many.",
        "The backward pass of transformers grows with the square of the length: 512 and 1,024 need --long.",
    ),
)

MAMBA2 = Case(
    name="mamba2_layer",
    title="A Mamba-2 layer, d_model 768, 24 heads of 64, d_state 128, one sequence, float32, forward and backward",
    axis="length",
    sizes=(512, 2048),
    quick=(64,),
    sides=(
        Side(name="longstate", prepare=mamba2),
        Side(name="transformers", prepare=transformers_mamba2, role="peer"),
        Side(name="attention + MLP", prepare=attention, role="peer"),
        Side(name="its matrix products", prepare=mamba2_products, role="limit"),
    ),
)
