"""Discretisation: from x'(t) = A x(t) + B u(t) to x_t = Ā x_{t-1} + B̄ u_t."""

import torch
from torch import Tensor

from longstate._checks import InputError, check_choice
from longstate.theory.real_form import real_form, real_vector, rotations

RULES = ("zoh", "bilinear", "euler", "backward_euler", "dirac")

# Below this modulus the eight terms of the series are exact in float64, for the value and for two derivatives.
_SERIES_RADIUS = 0.0625
_SERIES_TERMS = 9


def phi1(z: Tensor) -> Tensor:
    """φ₁(z) = (e^z - 1) / z, with φ₁(0) = 1.

    A series replaces the quotient near zero, where the quotient loses its digits and its gradient is not a number.

    Args:
        z: Real or complex, any shape.

    Returns:
        φ₁ of every element, of the same type and shape.

    Example:
        >>> phi1(torch.tensor([0.0, 1.0], dtype=torch.float64))
        tensor([1.0000, 1.7183], dtype=torch.float64)
    """
    near = z.abs() < _SERIES_RADIUS
    small = torch.where(near, z, torch.zeros_like(z))
    series = torch.ones_like(z)
    for divisor in range(_SERIES_TERMS, 1, -1):
        series = 1 + small / divisor * series
    # Each branch sees only arguments it can bear: a NaN in the unused one would still reach the gradient.
    large = torch.where(near, torch.ones_like(z), z)
    return torch.where(near, series, torch.expm1(large) / large)


def discretize_diagonal(A: Tensor, B: Tensor, dt: Tensor | float, rule: str) -> tuple[Tensor, Tensor]:
    """Discretise a diagonal system.

    With z = dt A, element by element:

        zoh              Ā = e^z                       B̄ = dt φ₁(z) B       exact for input held over each step
        bilinear         Ā = (1 + z/2) / (1 - z/2)     B̄ = dt / (1 - z/2) B
        euler            Ā = 1 + z                     B̄ = dt B
        backward_euler   Ā = 1 / (1 - z)               B̄ = dt / (1 - z) B
        dirac            Ā = e^z                       B̄ = B                exact for impulses

    dt = 0 gives Ā = 1 under every rule and B̄ = 0 under every rule but dirac, whose input must be masked instead.
    Where Re A < 0, every dt > 0 gives |Ā| < 1 except under euler.

    Args:
        A: Diagonal (..., H, N), real or complex.
        B: Input vector, broadcast against A.
        dt: Step sizes (..., H), one for each head: `dt[..., None]` is broadcast against A. (H,) for fixed steps,
            (batch, length, H) for irregular ones, a number for all alike.
        rule: One of the five names above.

    Returns:
        Ā and B̄, of one shape: dt[..., None], A and B broadcast together.

    Raises:
        InputError: If the rule is unknown.

    Source:
        Gu et al. 2021 (arXiv 2110.13985) for the family; dirac: arXiv 2404.18508.

    Example:
        >>> A = torch.tensor([[-1.0, -2.0]], dtype=torch.float64)
        >>> discretize_diagonal(A, torch.ones_like(A), torch.tensor([0.5]), "zoh")
        (tensor([[0.6065, 0.3679]], dtype=torch.float64), tensor([[0.3935, 0.3161]], dtype=torch.float64))
    """
    check_choice(rule, RULES, name="rule")
    step = _steps(dt, A)[..., None]
    z = step * A
    if rule == "zoh":
        A_bar, B_bar = torch.exp(z), step * phi1(z) * B
    elif rule == "bilinear":
        A_bar, B_bar = (1 + z / 2) / (1 - z / 2), step / (1 - z / 2) * B
    elif rule == "euler":
        A_bar, B_bar = 1 + z, step * B
    elif rule == "backward_euler":
        A_bar, B_bar = 1 / (1 - z), step / (1 - z) * B
    else:
        A_bar, B_bar = torch.exp(z), B
    A_bar, B_bar = torch.broadcast_tensors(A_bar, B_bar)
    return A_bar, B_bar


def discretize_dense(A: Tensor, B: Tensor, dt: Tensor | float, rule: str) -> tuple[Tensor, Tensor]:
    """Discretise a system with a full matrix.

    The rules of `discretize_diagonal` with matrices for numbers. A may be singular: zoh takes both of its parts from
    one matrix exponential,

        exp(dt [[A, B], [0, 0]]) = [[Ā, B̄], [0, 1]]

    Args:
        A: Matrices (..., N, N).
        B: Input vectors (..., N).
        dt: Step sizes (...,), broadcast against the leading axes of A: (H,) for A (H, N, N); a number for all alike.
        rule: "zoh", "bilinear", "euler", "backward_euler" or "dirac".

    Returns:
        Ā (..., N, N) and B̄ (..., N) with the leading axes of dt, A and B broadcast together.

    Raises:
        InputError: If the rule is unknown or A is not square.

    Source:
        Van Loan 1978 for the exponential; otherwise as `discretize_diagonal`.

    Example:
        >>> A = torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
        >>> discretize_dense(A, torch.tensor([0.0, 1.0], dtype=torch.float64), 0.1, "zoh")
        (tensor([[1.0000, 0.1000],
                [0.0000, 1.0000]], dtype=torch.float64), tensor([0.0050, 0.1000], dtype=torch.float64))
    """
    check_choice(rule, RULES, name="rule")
    z, driven = _scaled(A, B, dt)
    size = A.shape[-1]
    if rule == "euler":
        return _gbt(z, driven, 0.0)
    if rule == "dirac":
        return _matrix_exp(z), B.expand(driven.shape)
    if rule == "zoh":
        augmented = torch.nn.functional.pad(torch.cat([z, driven[..., None]], dim=-1), (0, 0, 0, 1))
        exponential = _matrix_exp(augmented)
        return exponential[..., :size, :size], exponential[..., :size, size]
    return _gbt(z, driven, 0.5 if rule == "bilinear" else 1.0)


def gbt(A: Tensor, B: Tensor, dt: Tensor | float, alpha: float) -> tuple[Tensor, Tensor]:
    """Discretise a system with a full matrix by the generalised bilinear transform.

        Ā = (I - α dt A)⁻¹ (I + (1 - α) dt A)        B̄ = dt (I - α dt A)⁻¹ B

    α = 0, 1/2 and 1 are the rules euler, bilinear and backward_euler. Where A has a negative semidefinite symmetric
    part, ‖Ā‖₂ <= 1 for α >= 1/2; below, a large dt makes the powers of Ā grow.

    Args:
        A: Matrices (..., N, N).
        B: Input vectors (..., N).
        dt: Step sizes (...,), broadcast against the leading axes of A: (H,) for A (H, N, N); a number for all alike.
        alpha: α, from 0 to 1.

    Returns:
        Ā (..., N, N) and B̄ (..., N) with the leading axes of dt, A and B broadcast together.

    Raises:
        InputError: If α is not between 0 and 1 or A is not square.

    Source:
        Gu et al. 2021 (arXiv 2110.13985), section 2.

    Example:
        >>> A = torch.tensor([[-1.0]], dtype=torch.float64)
        >>> gbt(A, torch.ones(1, dtype=torch.float64), 0.5, 0.5)
        (tensor([[0.6000]], dtype=torch.float64), tensor([0.4000], dtype=torch.float64))
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"`alpha` is {alpha}, but a number from 0 to 1 is needed; 0.5 is the bilinear rule.")
    return _gbt(*_scaled(A, B, dt), alpha)


def discretize_dplr(A: Tensor, P: Tensor, B: Tensor, dt: Tensor | float, rule: str) -> tuple[Tensor, Tensor]:
    """Discretise a half-stored diagonal-plus-low-rank system; the result is dense and real.

    The state is that of `real_form`, A_r = D - p pᵀ. bilinear inverts I - dt/2 A_r by Woodbury's identity in N² r
    operations instead of N³ (r the rank), with E = (I - dt/2 D)⁻¹ diagonal in the complex modes:

        (I - dt/2 A_r)⁻¹ = E - dt/2 E p (I + dt/2 pᵀ E p)⁻¹ pᵀ E =: M,   Ā = 2 M - I,   B̄ = dt M B_r

    The other rules go through `discretize_dense`. If Re Λ <= 0, then ‖Ā‖₂ <= 1 under bilinear, zoh, dirac and
    backward_euler.

    Args:
        A: Diagonal Λ (..., H, N/2), complex.
        P: Low-rank vectors (rank, ..., H, N/2), complex.
        B: Input vector (..., H, N/2), complex.
        dt: Step sizes (..., H), one for each head; a number for all alike.
        rule: "zoh", "bilinear", "euler", "backward_euler" or "dirac".

    Returns:
        Ā (..., H, N, N) and B̄ (..., H, N), real.

    Raises:
        InputError: If the rule is unknown.

    Source:
        Gu, Goel, Ré 2021 (arXiv 2111.00396), appendix C.3.

    Example:
        >>> A = torch.complex(-torch.ones(1, 2), torch.ones(1, 2))
        >>> A_bar, B_bar = discretize_dplr(A, torch.zeros(1, 1, 2) + 0j, torch.ones(1, 2) + 0j, 0.1, "bilinear")
        >>> A_bar.shape, B_bar.shape
        (torch.Size([1, 4, 4]), torch.Size([1, 4]))
    """
    check_choice(rule, RULES, name="rule")
    if rule != "bilinear":
        system = real_form(A, P, B, B)
        return discretize_dense(system.A, system.B, dt, rule)
    diagonal, left, right, B_bar = bilinear_low_rank(A, P, B, dt)
    return rotations(diagonal) + torch.einsum("k...i,k...j->...ij", left, right), B_bar


def bilinear_low_rank(A: Tensor, P: Tensor, B: Tensor, dt: Tensor | float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Discretise a half-stored diagonal-plus-low-rank system under bilinear, and keep it diagonal plus low rank.

    With the names of `discretize_dplr`, Ā = 2 M - I is a diagonal of complex modes and r terms of rank one:

        Ā = (2 E - I) - dt (E p) ((I + dt/2 pᵀ E p)⁻¹ pᵀ E)

    Args:
        A: Diagonal Λ (..., H, N/2), complex.
        P: Low-rank vectors (rank, ..., H, N/2), complex.
        B: Input vector (..., H, N/2), complex.
        dt: Step sizes (..., H), one for each head; a number for all alike.

    Returns:
        The diagonal 2 E - I (..., H, N/2), complex; the columns and the rows of the terms, each (rank, ..., H, N) and
        real; and B̄ (..., H, N), real.

    Source:
        Gu, Goel, Ré 2021 (arXiv 2111.00396), appendix C.3.

    Example:
        >>> A = torch.complex(-torch.ones(1, 2), torch.ones(1, 2))
        >>> diagonal, left, right, B_bar = bilinear_low_rank(A, torch.ones(1, 1, 2) + 0j, torch.ones(1, 2) + 0j, 0.1)
        >>> diagonal.shape, left.shape, right.shape, B_bar.shape
        (torch.Size([1, 2]), torch.Size([1, 1, 4]), torch.Size([1, 1, 4]), torch.Size([1, 4]))
    """
    step = _steps(dt, A)
    half = step[..., None] / 2
    inverse = 1 / (1 - half * A)
    left, right, p = real_vector(inverse * P), real_vector(inverse.conj_physical() * P), real_vector(P)
    eye = torch.eye(len(P), dtype=p.dtype, device=p.device)
    core = eye + half[..., None] * torch.einsum("j...n,k...n->...jk", p, left)
    rows = torch.linalg.solve(core, right.movedim(0, -2)).movedim(-2, 0)
    lost = (half * left * (rows * real_vector(B)).sum(-1, keepdim=True)).sum(0)
    B_bar = step[..., None] * (real_vector(inverse * B) - lost)
    return 2 * inverse - 1, -step[..., None] * left, rows, B_bar


def _scaled(A: Tensor, B: Tensor, dt: Tensor | float) -> tuple[Tensor, Tensor]:
    """Matrices dt A (..., N, N) and vectors dt B (..., N), of one leading shape."""
    if A.dim() < 2 or A.shape[-1] != A.shape[-2]:
        raise InputError(
            f"`A` has shape {tuple(A.shape)}, but square matrices (..., N, N) are needed; "
            "use `discretize_diagonal` for a diagonal."
        )
    step = _steps(dt, A)
    # Not `torch.broadcast_shapes`: that one imports sympy, a third of a second at the first layer's first call.
    lead = torch.broadcast_tensors(step, A[..., 0, 0], B[..., 0])[0].shape
    size = A.shape[-1]
    z = (step[..., None, None] * A).expand(*lead, size, size)
    return z, (step[..., None] * B).expand(*lead, size)


def _gbt(z: Tensor, driven: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """The transform of z = dt A and dt B."""
    size = z.shape[-1]
    eye = torch.eye(size, dtype=z.dtype, device=z.device)
    if alpha == 0:
        return eye + z, driven
    both = torch.linalg.solve(eye - alpha * z, torch.cat([eye + (1 - alpha) * z, driven[..., None]], dim=-1))
    return both[..., :size], both[..., size]


def _matrix_exp(z: Tensor) -> Tensor:
    """e^z of matrices (..., N, N)."""
    # A matrix alone, of a small norm, meets a wrong coefficient in torch's series (pytorch issue 196592; 3e-12 off for
    # LegS at dt = 1e-3 in float64, 2e-5 in float32). Two matrices take another path.
    if z.shape[:-2].numel() == 1:
        return torch.linalg.matrix_exp(torch.stack([z, z]))[0]
    return torch.linalg.matrix_exp(z)


def _steps(dt: Tensor | float, A: Tensor) -> Tensor:
    """`dt` as a tensor of the real type of `A`."""
    if isinstance(dt, Tensor):
        return dt
    return torch.full((), dt, dtype=A.dtype, device=A.device).real
