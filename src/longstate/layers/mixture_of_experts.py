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

SCORES = ("softmax", "sigmoid")
_TINY = 1e-20
"""Added to a sum of scores: no scores at all share nothing instead of dividing by zero."""


class MixtureOfExperts(ElementwiseLayer):
    """The `top_k` most probable of `n_experts` feed-forward maps for every element, weighted by their probabilities.

        p = softmax(W_r x),    y = Σ_{e in top k of p} p_e W_2e act(W_1e x)  [+ shared(x)]

    The probabilities are those over all experts: they are not divided by their sum unless `normalise` asks for it, as
    Mixtral does and Jamba does not. With `scores="sigmoid"`, as in DeepSeek-V3 and Nemotron 3, p = sigmoid(W_r x) and
    the chosen ones are the top k of p + b; b is the buffer `score_bias`, which no gradient reaches: whoever balances
    the load moves it. With `d_latent` the chosen experts work in a narrower space between two maps that all share.

    Eager mode runs every expert on its own elements only; a traced program has fixed shapes, so there every expert runs
    on all elements and the others' results are weighted by 0.

    Args:
        d_model: Number of features.
        d_inner: Width of every expert; 4 d_model if None.
        n_experts: Number of experts.
        top_k: Experts an element uses.
        activation: "swiglu", "gelu" or "relu2", as in `FeedForward`.
        normalise: Whether the chosen probabilities are divided by their sum.
        d_shared: Width of a feed-forward that every element uses besides, as in Granite; there is none if None.
        scores: "softmax" or "sigmoid".
        scale: What the weights of the chosen experts are multiplied by.
        d_latent: Width of the space the experts work in; d_model, without maps around them, if None.

    Raises:
        InputError: If a size or a name is not usable.

    Source:
        Lieber et al.: Jamba, arXiv 2403.19887, section 2; Shazeer et al., arXiv 1701.06538; DeepSeek-AI: DeepSeek-V3,
        arXiv 2412.19437, section 2.1.2 (sigmoid, and the bias of the choice).

    Example:
        >>> import torch
        >>> from longstate import MixtureOfExperts
        >>> MixtureOfExperts(4, n_experts=8)(torch.randn(2, 10, 4)).shape
        torch.Size([2, 10, 4])
    """

    score_bias: Tensor | None

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
        scores: str = "softmax",
        scale: float = 1.0,
        d_latent: int | None = None,
    ) -> None:
        super().__init__()
        check_choice(activation, ACTIVATIONS, name="activation")
        check_choice(scores, SCORES, name="scores")
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
        self.scale = scale
        self.router = nn.Linear(d_model, n_experts, bias=False)
        rows = 2 * d_inner if activation == "swiglu" else d_inner
        self.register_buffer("score_bias", torch.zeros(n_experts) if scores == "sigmoid" else None)
        width = d_model if d_latent is None else d_latent
        check_positive(d_latent=width)
        self.latent_in = None if d_latent is None else nn.Linear(d_model, width, bias=False)
        self.latent_out = None if d_latent is None else nn.Linear(width, d_model, bias=False)
        self.in_proj = nn.Parameter(_uniform(n_experts, rows, width))
        self.out_proj = nn.Parameter(_uniform(n_experts, width, d_inner))
        self.shared = None
        if d_shared is not None:
            self.shared = FeedForward(d_model, d_shared, activation=activation, bias=False)

    def map_elements(self, x: Tensor) -> Tensor:
        """The weighted sum of the chosen experts, and what all elements share."""
        y = self._mix(x)
        return y if self.shared is None else y + self.shared.map_elements(x)

    def _mix(self, x: Tensor) -> Tensor:
        weight, chosen = self._choose(x)
        h = x if self.latent_in is None else self.latent_in(x)
        if torch.compiler.is_compiling() or x.is_meta:
            every = weight.new_zeros(len(x), len(self.in_proj)).scatter(-1, chosen, weight)
            parts = [self._expert(e, h) * every[:, e : e + 1].to(h.dtype) for e in range(len(self.in_proj))]
            y = torch.stack(parts).sum(0)
        else:
            y = torch.zeros_like(h)
            for e in range(len(self.in_proj)):
                element, place = (chosen == e).nonzero(as_tuple=True)
                part = self._expert(e, h[element]) * weight[element, place, None].to(h.dtype)
                y = y.index_add(0, element, part.to(y.dtype))
        return y if self.latent_out is None else self.latent_out(y)

    def _choose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The experts of every element (count, top_k), and their weights, in float32 at least."""
        if self.score_bias is None:
            logits = self.router(x)
            probability = torch.softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)
            weight, chosen = probability.topk(self.top_k, dim=-1)
        else:
            wide = torch.promote_types(x.dtype, torch.float32)
            score = torch.sigmoid(nn.functional.linear(x.to(wide), self.router.weight.to(wide)))
            chosen = (score + self.score_bias.to(wide)).topk(self.top_k, dim=-1).indices
            weight = score.gather(-1, chosen)
        if self.normalise:
            weight = weight / (weight.sum(-1, keepdim=True) + _TINY)
        return (weight if self.scale == 1.0 else weight * self.scale), chosen

    def _expert(self, e: int, x: Tensor) -> Tensor:
        hidden = activate(nn.functional.linear(x, self.in_proj[e]), self.activation)
        return nn.functional.linear(hidden, self.out_proj[e])


def _uniform(experts: int, rows: int, columns: int) -> Tensor:
    """Weights of linear maps as `nn.Linear` draws them."""
    return (torch.rand(experts, rows, columns) * 2 - 1) / math.sqrt(columns)
