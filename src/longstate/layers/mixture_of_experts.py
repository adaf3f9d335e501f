"""A feed-forward layer of which every element uses a few experts."""

import math

import torch
from torch import Tensor, nn

from longstate._checks import (
    InputError,
    check_choice,
    check_positive,
)
from longstate.layers.elementwise import ElementwiseLayer
from longstate.layers.feed_forward import ACTIVATIONS, FeedForward, activate


class MixtureOfExperts(ElementwiseLayer):
    """The `top_k` most probable of `n_experts` feed-forward maps for every element, weighted by their probabilities.

        p = softmax(W_r x),    y = Σ_{e in top k of p} p_e W_2e act(W_1e x)  [+ shared(x)]

    The probabilities are those over all experts: they are not divided by their sum unless `normalise` asks for it, as
    Mixtral does and Jamba does not. Eager mode runs every expert on its own elements only; a traced program has fixed
    shapes, so there every expert runs on all elements and the others' results are weighted by 0.

    Args:
        d_model: Number of features.
        d_inner: Width of every expert; 4 d_model if None.
        n_experts: Number of experts.
        top_k: Experts an element uses.
        activation: "swiglu", "gelu" or "relu2", as in `FeedForward`.
        normalise: Whether the chosen probabilities are divided by their sum.
        d_shared: Width of a feed-forward that every element uses besides, as in Granite; there is none if None.

    Raises:
        InputError: If a size or a name is not usable.

    Source:
        Lieber et al.: Jamba, arXiv 2403.19887, section 2; Shazeer et al., arXiv 1701.06538.

    Example:
        >>> import torch
        >>> from longstate import MixtureOfExperts
        >>> MixtureOfExperts(4, n_experts=8)(torch.randn(2, 10, 4)).shape
        torch.Size([2, 10, 4])
    """

    def __init__(
        self,
        d_model: int,
        d_inner: int | None = None,
        *,
        n_experts: int = 16,
        top_k: int = 2,
        activation: str = "swiglu",
        normalise: bool = False,
        d_shared: int | None = None,
    ) -> None:
        super().__init__()
        check_choice(activation, ACTIVATIONS, name="activation")
        d_inner = 4 * d_model if d_inner is None else d_inner
        check_positive(d_model=d_model, d_inner=d_inner, n_experts=n_experts, top_k=top_k)
        if top_k > n_experts:
            raise InputError(
                f"`top_k` is {top_k}, but there are {n_experts} experts to choose from; make it at most {n_experts}."
            )
        self.d_model = d_model
        self.top_k = top_k
        self.activation = activation
        self.normalise = normalise
        self.router = nn.Linear(d_model, n_experts, bias=False)
        rows = 2 * d_inner if activation == "swiglu" else d_inner
        self.in_proj = nn.Parameter(_uniform(n_experts, rows, d_model))
        self.out_proj = nn.Parameter(_uniform(n_experts, d_model, d_inner))
        self.shared = None
        if d_shared is not None:
            self.shared = FeedForward(d_model, d_shared, activation=activation, bias=False)

    def map_elements(self, x: Tensor) -> Tensor:
        """The weighted sum of the chosen experts, and what all elements share."""
        y = self._mix(x)
        return y if self.shared is None else y + self.shared.map_elements(x)

    def _mix(self, x: Tensor) -> Tensor:
        logits = self.router(x)
        probability = torch.softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)
        weight, chosen = probability.topk(self.top_k, dim=-1)
        if self.normalise:
            weight = weight / weight.sum(-1, keepdim=True)
        if torch.compiler.is_compiling() or x.is_meta:
            every = torch.zeros_like(probability).scatter(-1, chosen, weight)
            parts = [self._expert(e, x) * every[:, e : e + 1].to(x.dtype) for e in range(len(self.in_proj))]
            return torch.stack(parts).sum(0)
        y = torch.zeros_like(x)
        for e in range(len(self.in_proj)):
            element, place = (chosen == e).nonzero(as_tuple=True)
            part = self._expert(e, x[element]) * weight[element, place, None].to(x.dtype)
            y = y.index_add(0, element, part.to(y.dtype))
        return y

    def _expert(self, e: int, x: Tensor) -> Tensor:
        hidden = activate(nn.functional.linear(x, self.in_proj[e]), self.activation)
        return nn.functional.linear(hidden, self.out_proj[e])


def _uniform(experts: int, rows: int, columns: int) -> Tensor:
    """Weights of linear maps as `nn.Linear` draws them."""
    return (torch.rand(experts, rows, columns) * 2 - 1) / math.sqrt(columns)
