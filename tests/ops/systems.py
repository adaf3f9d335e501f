"""Random stable systems of every kind."""

import torch

from longstate import ops


def random_system(kind: str, features: int = 3, d_state: int = 4, channels: int = 2) -> ops.LTISystem:
    real = {"dtype": torch.float64}
    D = torch.randn(channels, features, **real)
    if kind == "complex":
        A = torch.polar(0.8 + 0.2 * torch.rand(features, d_state, **real), 3 * torch.randn(features, d_state, **real))
        B = torch.randn(features, d_state, dtype=torch.complex128)
        return ops.LTISystem(A, B, torch.randn(channels, features, d_state, dtype=torch.complex128), D)
    B, C = torch.randn(features, d_state, **real), torch.randn(channels, features, d_state, **real)
    if kind == "real":
        return ops.LTISystem(1.9 * torch.rand(features, d_state, **real) - 0.95, B, C, D)
    A = torch.randn(features, d_state, d_state, **real)
    return ops.LTISystem(0.97 * A / torch.linalg.matrix_norm(A, 2)[:, None, None], B, C, D)


KINDS = ["complex", "real", "dense"]
