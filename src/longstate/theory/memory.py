"""HiPPO as a memory without learning: the matrices of many steps at once."""

from collections.abc import Callable

import torch
from torch import Tensor

from longstate._checks import InputError, check_choice, check_positive
from longstate.theory.discretize import discretize_dense
from longstate.theory.hippo import hippo
from longstate.theory.legendre import legendre, norms

MEMORY_RULES = ("zoh", "bilinear", "euler", "backward_euler")

Blocks = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From how many elements came before (groups,) to the matrices of the next ones: `scaled_blocks` says which."""

# The forward Euler step multiplies the first samples of legs by up to 6e3 at this order, by 1e9 at twice of it.
_EULER_ORDER = 8


def scaled_blocks(
    order: int,
    size: int,
    *,
    rule: str = "zoh",
    dtype: torch.dtype = torch.float64,
    device: torch.device | None = None,
) -> Blocks:
    """The memory of all of the past (legs), a block of `size` elements at a time.

        x'(t) = (A x(t) + B u(t)) / t

    Element k = 1, 2, ... is a step from time k-1 to k. zoh is exact for an input held over each step: in log time the
    system is time invariant, Ā_k = e^{A ln(k/(k-1))}, and the first element alone gives x = (u_1, 0, 0, ...). So after
    k elements x is the projection of the held input on the Legendre polynomials, to rounding. The other rules are those
    of `discretize_dense` with A/k and B/k; they start from x = 0, as if something had come before.

    Coefficients under zoh are not found from A, which is far from normal, but from Legendre polynomials at Gauss nodes:
    with ρ = j/k, σ and w the nodes and weights on [0, 1],

        e^{A ln(k/j)} = [ρ r_n P_n(2ρσ_q - 1) √w_q]_{n,q} [r_m P_m(2σ_q - 1) √w_q]_{q,m}
        input i:  ∫_{(i-1)/k}^{i/k} r_n P_n(2s - 1) ds

    Args:
        order: Number N of coefficients.
        size: Number T of elements in a block.
        rule: "zoh", "bilinear", "euler" (up to order 8) or "backward_euler".
        dtype: Type that the matrices are rounded to; they are computed in float64.
        device: Where they are made.

    Returns:
        A function of `first` (groups,), how many elements came before, for each group of rows that share it. It gives
        enter (N, N) and weights (groups, N, T, N + T) with

            x_{first+t} = Σ_q weights[:, t-1, q] (enter x_first)_q + Σ_i weights[:, t-1, N+i-1] u_{first+i}

        for t = 1 .. T; inputs after t have the weight 0.

    Raises:
        InputError: If a size or the rule is not usable.

    Source:
        Gu et al. 2020 (arXiv 2008.07669), theorem 2 and section 3; rules other than zoh as in the authors' code.

    Example:
        >>> enter, weights = scaled_blocks(2, 3)(torch.zeros(1, dtype=torch.int64))
        >>> weights[0, 0, :, 2:]  # coefficient 0 is the running mean
        tensor([[1.0000, 0.0000, 0.0000],
                [0.5000, 0.5000, 0.0000],
                [0.3333, 0.3333, 0.3333]], dtype=torch.float64)
    """
    check_choice(rule, MEMORY_RULES, name="rule")
    check_positive(order=order, size=size)
    if rule == "euler" and order > _EULER_ORDER:
        raise InputError(
            f"`rule` is 'euler' with measure 'legs' of order {order}, but beyond order {_EULER_ORDER} it multiplies "
            "the first samples by more than 1e4; use 'zoh', which is exact."
        )
    if rule == "zoh":
        return _projections(order, size, dtype, device)
    A, B = (part.to(device) for part in hippo("legs", order))
    enter = torch.eye(order, dtype=dtype, device=device)

    def blocks(first: Tensor) -> tuple[Tensor, Tensor]:
        count = first.to(torch.float64)[:, None] + torch.arange(1, size + 1, dtype=torch.float64, device=device)
        return enter, _products(*discretize_dense(A, B, 1 / count, rule)).to(dtype)

    return blocks


def sliding_blocks(
    A_bar: Tensor,
    B_bar: Tensor,
    size: int,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | None = None,
) -> Blocks:
    """A time-invariant memory, a block of `size` elements at a time: the same block at any time.

        x_t = Ā^t x_0 + Σ_{i<=t} Ā^{t-i} B̄ u_i

    Args:
        A_bar: Discrete matrix (N, N), float64.
        B_bar: Discrete input vector (N,).
        size: Number T of elements in a block.
        dtype: Type that the matrices are rounded to.
        device: Where they are moved.

    Returns:
        A function with the results of `scaled_blocks`; enter is the identity, and there is one group.

    Raises:
        InputError: If the size is not positive.

    Example:
        >>> half = torch.full((1, 1), 0.5, dtype=torch.float64)
        >>> enter, weights = sliding_blocks(half, half[0], 3)(torch.zeros(1))
        >>> weights[0, 0]
        tensor([[0.5000, 0.5000, 0.0000, 0.0000],
                [0.2500, 0.2500, 0.5000, 0.0000],
                [0.1250, 0.1250, 0.2500, 0.5000]], dtype=torch.float64)
    """
    check_positive(size=size)
    order = len(B_bar)
    powers = A_bar[None]
    while len(powers) < size:
        powers = torch.cat([powers, powers[: size - len(powers)] @ powers[-1]])
    driven = torch.cat([B_bar[None], powers[:-1] @ B_bar])
    t = torch.arange(size)
    lag = t[:, None] - t
    inputs = torch.where(lag >= 0, driven.T[:, lag.clamp(min=0)], 0.0)
    weights = torch.cat([powers.transpose(0, 1), inputs], dim=-1)[None].to(dtype=dtype, device=device)
    enter = torch.eye(order, dtype=dtype, device=device)
    return lambda first: (enter, weights)


def _projections(order: int, size: int, dtype: torch.dtype, device: torch.device | None) -> Blocks:
    """The scaled memory under zoh, from Legendre polynomials."""
    r = norms(order, device=device)
    off_diagonal = torch.arange(1, order, dtype=torch.float64, device=device)
    off_diagonal = off_diagonal / torch.sqrt(4 * off_diagonal.square() - 1)
    node = torch.linalg.eigvalsh(torch.diag(off_diagonal, -1) + torch.diag(off_diagonal, 1))
    values = (r[:, None] * legendre(node, order)).T
    enter = values / torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    root_weight = enter[:, 0]
    elements = torch.arange(size + 1, dtype=torch.float64, device=device)

    def blocks(first: Tensor) -> tuple[Tensor, Tensor]:
        before = first.to(torch.float64)[:, None]
        count = before + elements[1:]
        share = (before / count)[..., None]
        edges = ((before + elements)[:, None] / count[..., None]).clamp(max=1.0)
        at_nodes = (share * root_weight).expand(*share.shape[:-1], order)
        start = torch.cat([at_nodes, torch.ones_like(edges)], dim=-1)
        P = legendre(torch.cat([share * (node + 1) - 1, 2 * edges - 1], dim=-1), order + 1, start=start)
        # ∫ P_n = (P_{n+1} - P_{n-1}) / (2n+1), and the constant P_{-1} = 1 leaves with the difference over a step.
        change = P[..., order:].diff(dim=-1)
        inputs = 0.5 * (change[1:] - torch.nn.functional.pad(change[:-2], (0, 0, 0, 0, 0, 0, 1, 0)))
        inputs = inputs / r.square()[:, None, None, None]
        weights = torch.cat([P[:-1, ..., :order], inputs], dim=-1) * r[:, None, None, None]
        return enter.to(dtype), weights.movedim(0, 1).to(dtype)

    return blocks


def _products(A_bar: Tensor, B_bar: Tensor) -> Tensor:
    """Weights (groups, N, T, N + T) of T different steps A_bar (groups, T, N, N), B_bar (groups, T, N), in pairs."""
    size, order = B_bar.shape[1:]
    padding = (1 << (size - 1).bit_length()) - size
    A_bar = torch.nn.functional.pad(A_bar, (0, 0, 0, 0, 0, padding))
    B_bar = torch.nn.functional.pad(B_bar, (0, 0, 0, padding))
    weights = torch.cat([A_bar, B_bar[..., None]], dim=-1).unsqueeze(2)  # (groups, runs, elements of a run, N, N + T)
    while weights.shape[1] > 1:
        early, late = weights.unflatten(1, (-1, 2)).unbind(2)
        after = late[..., :order] @ early[:, :, -1:]
        early = torch.nn.functional.pad(early, (0, late.shape[-1] - order))
        weights = torch.cat([early, torch.cat([after, late[..., order:]], dim=-1)], dim=2)
    return weights[:, 0, :size, :, : order + size].transpose(1, 2)
