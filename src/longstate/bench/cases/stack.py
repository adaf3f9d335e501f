"""A training step of a whole stack, with what stands around its layers: norms, residual branches and dropout."""

from torch import nn

from longstate.bench import peers
from longstate.bench.case import Case, Side, Work
from longstate.bench.cases.time_invariant import factorised
from longstate.bench.layer_work import train, without_kernels
from longstate.bench.limits import Product, products
from longstate.models import Backbone, BackboneConfig

BATCH, D_MODEL, LAYERS, DROPOUT = 16, 64, 4, 0.1


def ours(length: int) -> Work:
    """The stack that `longstate fit` trains if nothing is said."""
    return train(Backbone(BackboneConfig(d_model=D_MODEL, n_layers=LAYERS, dropout=DROPOUT)), BATCH, length, D_MODEL)


def no_kernel(length: int) -> Work:
    """The same by PyTorch alone."""
    return without_kernels(lambda: ours(length))


def lstm(length: int) -> Work:
    """PyTorch's LSTM, as deep and as wide."""
    return train(peers.Recurrent(nn.LSTM, D_MODEL, LAYERS, DROPOUT), BATCH, length, D_MODEL)


def attention(length: int) -> Work:
    """A transformer, as deep and as wide, without dropout."""
    return train(nn.Sequential(*(peers.TransformerBlock(D_MODEL) for _ in range(LAYERS))), BATCH, length, D_MODEL)


def its_products(length: int) -> Work:
    """Of the factorised kernels and of the output maps."""
    kernel, copied = factorised(length, D_MODEL), 2 * LAYERS * BATCH * length * D_MODEL
    return products([kernel, Product(BATCH * length, D_MODEL, 2 * D_MODEL)] * LAYERS, copied=copied, backward=True)


STACK = Case(
    name="stack",
    title=f"{LAYERS} layers of S4D with norms, residual branches and dropout {DROPOUT}, as `longstate fit` trains "
    f"them: batch {BATCH}, d_model {D_MODEL}, d_state 64, float32, forward and backward",
    axis="length",
    sizes=(128, 256, 1024, 4096),
    quick=(32,),
    sides=(
        Side(name="longstate", prepare=ours),
        Side(name="longstate, no native kernel", prepare=no_kernel),
        Side(name="LSTM", prepare=lstm, role="peer"),
        Side(name="attention + MLP", prepare=attention, role="peer"),
        Side(name="its matrix products", prepare=its_products, role="limit"),
    ),
    rounds=5,
    notes=("The transformer drops nothing and holds 2.4 times the parameters.",),
)
