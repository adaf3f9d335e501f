"""The published way to the S4 kernel: a Cauchy product at the roots of unity, Woodbury's identity, an inverse FFT."""

import math

import torch
from torch import Tensor

from longstate._checks import InputError, check_positive
from longstate.ops import _dispatch


def cauchy(v: Tensor, z: Tensor, w: Tensor, *, backend: str = "auto") -> Tensor:
    """Cauchy product with conjugate pairs.

        r(z) = sum_n  v_n / (z - w_n) + conj(v_n) / (z - conj(w_n))

    Args:
        v: Numerators (..., N), complex.
        z: Points (points,), complex, away from every w and its conjugate.
        w: Poles (..., N), complex; one of each pair.
        backend: "torch" (materialises (..., N, points)), "reference" (a loop over the poles), or "auto".

    Returns:
        Values (..., points), complex.

    Source:
        Gu, Goel, Re 2021 (arXiv 2111.00396), section 3.3 and appendix C.3.

    Example:
        >>> import torch
        >>> from longstate import ops
        >>> v, w = torch.tensor([1.0 + 0j]), torch.tensor([-1.0 + 0j])
        >>> ops.cauchy(v, torch.tensor([1.0 + 0j]), w)
        tensor([1.+0.j])
    """
    return _dispatch.run("cauchy", backend, v.device, v, z, w)


def cauchy_reference(v: Tensor, z: Tensor, w: Tensor) -> Tensor:
    """The equation as a loop over the poles."""
    v, w = torch.broadcast_tensors(v, w)
    r = torch.zeros_like(v[..., :1] * z)
    for n in range(v.shape[-1]):
        v_n, w_n = v[..., n, None], w[..., n, None]
        r = r + v_n / (z - w_n) + v_n.conj() / (z - w_n.conj())
    return r


def cauchy_kernel(
    A: Tensor, P: Tensor, B: Tensor, C: Tensor, dt: Tensor, length: int, *, backend: str = "auto"
) -> Tensor:
    """Kernel of a diagonal-plus-low-rank system by the published algorithm, for comparison and for old checkpoints.

        C~ = C (I - Abar^L),     z = 2 (1 - omega) / (1 + omega),     omega_k = exp(-2 pi i k / L)
        K^(omega) = 2 / (1 + omega) (r_00 - r_01 (I + r_11)^-1 r_10),     r_ij = cauchy(dt u_i v_j, z, dt A)

    with u = [C~, P*] and v = [B, P]. At omega = -1, where the formula is 0/0, its limit dt Re(C~ B) stands. In float32
    its error grows with the length, up to 5e-3 at 16,384 taps; `lti_kernel` stays at 1e-6. Prefer that.

    Args:
        A: Diagonal (H, N/2), complex; one of each conjugate pair. Re A < 0: a pole at 0 meets the root omega = 1.
        P: Low rank (rank, H, N/2), complex: the matrix is diag(A) - sum_j P_j P_j*.
        B: Input (H, N/2), complex.
        C: The **truncated** output C~ (channels, H, N/2), complex, for this very `length`: `theory.truncate_output`.
        dt: Steps (H,); the discretisation is bilinear.
        length: Number of taps L.
        backend: Of the Cauchy product.

    Returns:
        Kernel (channels, H, length), real.

    Raises:
        InputError: If `length` is not positive or the axes do not fit.

    Source:
        Gu, Goel, Re 2021 (arXiv 2111.00396), algorithm 1; rank r and tied P as in the authors' code.
    """
    check_positive(length=length)
    if P.dim() != 3 or C.dim() != 3 or not (A.shape == B.shape == P.shape[1:] == C.shape[1:]):
        raise InputError(
            f"A {tuple(A.shape)}, P {tuple(P.shape)}, B {tuple(B.shape)}, C {tuple(C.shape)} do not fit, but (H, N/2), "
            "(rank, H, N/2), (H, N/2), (channels, H, N/2) are needed; check which axis is H."
        )
    k = torch.arange(length // 2 + 1, device=A.device)
    angle = (-2 * math.pi / length) * k.to(dt.dtype)
    omega = torch.polar(torch.ones_like(angle), angle)
    nyquist = 2 * k == length
    safe = torch.where(nyquist, torch.ones_like(omega), omega)
    z = 2 * (1 - safe) / (1 + safe)

    left = torch.cat([C, P.conj()])
    right = torch.cat([B[None], P])
    numerators = dt[:, None] * left[:, None] * right[None]
    r = cauchy(numerators, z, (dt[:, None] * A), backend=backend)
    channels = len(C)
    r_00, r_01, r_10, r_11 = r[:channels, 0], r[:channels, 1:], r[channels:, 0], r[channels:, 1:]
    small = r_11.permute(2, 3, 0, 1) + torch.eye(len(P), dtype=r.dtype, device=r.device)
    solved = torch.linalg.solve(small, r_10.permute(1, 2, 0)[..., None])[..., 0]
    spectrum = 2 / (1 + safe) * (r_00 - torch.einsum("crhl,hlr->chl", r_01, solved))
    limit = (dt * (C * B).sum(-1).real).to(spectrum.dtype)[..., None]
    return torch.fft.irfft(torch.where(nyquist, limit, spectrum), n=length)


def _cauchy_torch(v: Tensor, z: Tensor, w: Tensor) -> Tensor:
    v, w = v[..., None], w[..., None]
    return (v / (z - w) + v.conj() / (z - w.conj())).sum(-2)


_dispatch.register(
    "cauchy",
    _dispatch.Backend("torch", _cauchy_torch, _dispatch.always),
    _dispatch.Backend("reference", cauchy_reference, _dispatch.always),
)
