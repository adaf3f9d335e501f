"""Layers of S4D, S4 and S5: kernels as matrix products beside the published forms that hold whole matrices."""

from functools import partial
from typing import Literal

import torch

from longstate.bench import peers
from longstate.bench.case import Case, Side, Work
from longstate.bench.layer_work import infer, train
from longstate.bench.limits import Product, products
from longstate.bench.materialised import MaterialisedS4, MaterialisedS4D
from longstate.layers import S4, S4D, S5
from longstate.ops.fft_conv import good_fft_size
from longstate.ops.lti_kernel import split_length

BATCH, D_MODEL, D_STATE = 8, 128, 64
Pass = Literal["forward", "training"]
_WORK = {"forward": infer, "training": train}


def ours(length: int, *, layer: type[S4] | type[S4D], kind: Pass) -> Work:
    """The layer of longstate."""
    return _WORK[kind](layer(D_MODEL, D_STATE), BATCH, length, D_MODEL)


def vandermonde(length: int, *, kind: Pass) -> Work:
    """S4D with its Vandermonde matrix in memory."""
    return _WORK[kind](MaterialisedS4D(S4D(D_MODEL, D_STATE)), BATCH, length, D_MODEL)


def cauchy(length: int, *, kind: Pass) -> Work:
    """S4 with its Cauchy matrices in memory."""
    return _WORK[kind](MaterialisedS4(S4(D_MODEL, D_STATE), length), BATCH, length, D_MODEL)


def factorised(length: int, d_model: int) -> Product:
    """The kernels of `d_model` systems as products of two matrices."""
    M, T = split_length(length)
    return Product(M, D_STATE, T, d_model)


def its_products(length: int, *, kind: Pass) -> Work:
    """The products of the factorised kernel and of the output map."""
    shapes = [factorised(length, D_MODEL), Product(BATCH * length, D_MODEL, 2 * D_MODEL)]
    return products(shapes, copied=2 * BATCH * length * D_MODEL, backward=kind == "training")


def its_ffts(length: int, *, kind: Pass) -> Work:
    """The real FFTs of inputs, kernels and outputs (and of the gradients), without the products between them."""
    n = good_fft_size(2 * length - 1)
    u, K = torch.randn(BATCH, D_MODEL, length), torch.randn(1, D_MODEL, length)
    spectrum, kernel_spectrum = torch.fft.rfft(u, n=n), torch.fft.rfft(K, n=n)

    def run() -> None:
        torch.fft.rfft(u, n=n)
        torch.fft.rfft(K, n=n)
        torch.fft.irfft(spectrum, n=n)
        if kind == "training":
            torch.fft.rfft(u, n=n)
            torch.fft.irfft(spectrum, n=n)
            torch.fft.irfft(kernel_spectrum, n=n)

    return run


def vandermonde_bytes(length: int, *, kind: Pass) -> int:
    """Complex numbers of (H, N/2, length), so many times."""
    return 8 * D_MODEL * D_STATE // 2 * length * (3 if kind == "forward" else 7)


def cauchy_bytes(length: int, *, kind: Pass) -> int:
    """Complex numbers of (2, 2, H, N/2, length/2) and of the conjugates, so many times."""
    return 8 * 4 * D_MODEL * D_STATE // 2 * length // 2 * (3 if kind == "forward" else 7)


def _case(name: str, kind: Pass) -> Case:
    layer, peer, text, needs = {
        "s4d": (S4D, vandermonde, "Vandermonde matrix in memory", vandermonde_bytes),
        "s4": (S4, cauchy, "Cauchy matrices in memory", cauchy_bytes),
    }[name]
    passes = "forward" if kind == "forward" else "forward and backward"
    return Case(
        name=f"{name}_layer" if kind == "training" else f"{name}_layer_forward",
        title=f"A layer of {name.upper()}, batch {BATCH}, d_model {D_MODEL}, d_state {D_STATE}, float32, {passes}",
        axis="length",
        sizes=(1024, 16384),
        quick=(32,),
        sides=(
            Side(name="longstate", prepare=partial(ours, layer=layer, kind=kind)),
            Side(name=text, prepare=partial(peer, kind=kind), role="peer", needs=partial(needs, kind=kind)),
            Side(name="its matrix products", prepare=partial(its_products, kind=kind), role="limit"),
            Side(name="its FFTs", prepare=partial(its_ffts, kind=kind), role="limit"),
        ),
        rounds=5,
    )


S4D_TRAINING, S4_TRAINING = (_case(name, "training") for name in ("s4d", "s4"))
S4D_FORWARD, S4_FORWARD = (_case(name, "forward") for name in ("s4d", "s4"))


def s5(length: int) -> Work:
    """The layer of longstate, without an output stage."""
    return train(S5(D_MODEL, D_STATE, output="none"), BATCH, length, D_MODEL)


def s5_pytorch(length: int) -> Work:
    """That of s5-pytorch, with as many complex modes."""
    return train(peers.s5_pytorch_layer(D_MODEL, D_STATE // 2), BATCH, length, D_MODEL)


def s5_products(length: int) -> Work:
    """Into the states and out of them."""
    rows = BATCH * length
    shapes = [Product(rows, D_MODEL, D_STATE), Product(rows, D_STATE, D_MODEL)]
    return products(shapes, copied=2 * rows * D_MODEL, backward=True)


S5_TRAINING = Case(
    name="s5_layer",
    title=f"A layer of S5, batch {BATCH}, d_model {D_MODEL}, d_state {D_STATE}, float32, forward and backward",
    axis="length",
    sizes=(1024, 4096),
    quick=(32,),
    sides=(
        Side(name="longstate", prepare=s5),
        Side(name="s5-pytorch", prepare=s5_pytorch, role="peer"),
        Side(name="its matrix products", prepare=s5_products, role="limit"),
    ),
    rounds=5,
    notes=("s5-pytorch keeps no conjugate pairs: it has 32 complex modes here, as many as longstate computes with.",),
)
