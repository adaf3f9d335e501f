"""Kernels against the official code, and float32 against float64."""

import pytest
import torch

import official
from longstate import DSS, ops, theory

CASES = [name for name in official.OPTIONS if name.startswith("kernel/")]


def system_of(name: str) -> ops.LTISystem:
    arrays, options = official.case(name), official.OPTIONS[name]
    A, B, C = (arrays[key].to(torch.complex128) for key in "ABC")
    dt = arrays["dt"][:, 0].double() * options["rate"]
    D = torch.zeros(1, len(A), dtype=torch.float64)
    if "P" in arrays:
        A_bar, B_bar = theory.discretize_dplr(A, arrays["P"].to(torch.complex128), B, dt, "bilinear")
        return ops.LTISystem(A_bar, B_bar, theory.real_vector(C.conj())[None], D)
    if options["disc"] == "dss":
        layer = DSS(*A.shape, form="softmax", l_max=options["L"], n_ssm=None).double()
        layer.log_dt.data.copy_(dt.log())
        layer.A_real.data.copy_(A.real)
        layer.A_imag.data.copy_(A.imag)
        layer.C.data.copy_(torch.view_as_real(B * C))
        return ops.LTISystem(*(part.detach() for part in layer.system()))._replace(D=D)
    A_bar, B_bar = theory.discretize_diagonal(A, B, dt, options["disc"])
    return ops.LTISystem(A_bar, B_bar, 2 * C[None], D)


@pytest.mark.parametrize("name", CASES)
def test_kernel_is_the_official_one(name: str) -> None:
    K = official.case(name)["K"].double()
    ours = ops.lti_kernel(system_of(name), K.shape[-1], dtype=torch.float64)[0]
    tolerance = 2e-4 if "/s4_" in name else 2e-5  # the float32 error of the official side
    assert (ours - K).abs().max() <= tolerance * K.abs().max()


@pytest.mark.parametrize("name", CASES)
def test_float32_kernel_channel_by_channel(name: str) -> None:
    system = system_of(name)
    length = official.case(name)["K"].shape[-1]
    exact = ops.lti_kernel(system, length, dtype=torch.float64, backend="reference")
    fast64 = ops.lti_kernel(system, length, dtype=torch.float64)
    fast32 = ops.lti_kernel(system, length).double()
    scale = exact.abs().amax(-1)
    assert ((fast64 - exact).abs().amax(-1) <= 1e-12 * scale).all()
    assert ((fast32 - exact).abs().amax(-1) <= 2e-6 * scale).all()
