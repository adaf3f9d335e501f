"""A layer as a piece of work: a run forward, or forward and backward, in the type float32."""

from collections.abc import Callable
from unittest import mock

import torch
from torch import Tensor, nn

from longstate.bench.case import Work
from longstate.ops import _native


def train(layer: nn.Module, batch: int, length: int, d_model: int) -> Work:
    """Forward and backward, with gradients of the input and of all parameters."""
    x = torch.randn(batch, length, d_model, requires_grad=True)
    grad = torch.randn(batch, length, d_model)

    def run() -> None:
        x.grad = None
        layer.zero_grad(set_to_none=True)
        _outputs(layer(x)).backward(grad)

    return run


def infer(layer: nn.Module, batch: int, length: int, d_model: int) -> Work:
    """Forward, without gradients."""
    x = torch.randn(batch, length, d_model)
    layer.eval()

    def run() -> Tensor:
        with torch.no_grad():
            return _outputs(layer(x))

    return run


def without_kernels(make: Callable[[], Work]) -> Work:
    """The same work as on a machine where no native kernel was built: PyTorch alone."""
    work = make()

    def run() -> object:
        with mock.patch.object(_native, "is_built", return_value=False):
            return work()

    return run


def _outputs(found: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Some layers of peers return a state as well."""
    return found if isinstance(found, Tensor) else found[0]
