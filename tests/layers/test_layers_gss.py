"""GSS: the published block term by term, its narrow part as a DSS, and clear errors."""

import math

import pytest
import torch
from torch import Tensor

from longstate import DSS, GSS, InputError, Residual
from longstate.diagnostics import laws as checks
from longstate.layers import SLOW
from longstate.layers.gss import UnitStepDSS
from longstate.ops import lti_kernel


def published_block(block: Residual, x: Tensor) -> Tensor:
    """The block on one row (length, d_model), with every convolution a plain sum."""
    gss = block.layer
    mean, var = x.mean(-1, keepdim=True), x.var(-1, correction=0, keepdim=True)
    n = (x - mean) / (var + 1e-5).sqrt() * block.norm.norm.weight + block.norm.norm.bias

    def gelu(z: Tensor) -> Tensor:
        return z * (1 + torch.erf(z / math.sqrt(2))) / 2

    v, u = gelu(n @ gss.gate.weight.T), gelu(n @ gss.narrow.weight.T)
    mean, var = u.mean(-1, keepdim=True), u.var(-1, correction=0, keepdim=True)
    u = (u - mean) / (var + 1e-5).sqrt() * gss.norm.weight + gss.norm.bias
    A = torch.complex(-gss.ssm.A_real.exp(), gss.ssm.A_imag.exp())
    C = torch.view_as_complex(gss.ssm.C[0])
    y = torch.zeros_like(u)
    for t in range(len(x)):
        for lag in range(t + 1):
            y[t] = y[t] + (C * (torch.exp(A) - 1) / A * torch.exp(lag * A)).sum(-1).real * u[t - lag]
        y[t] = y[t] + gss.ssm.D[0] * u[t]
    return ((y @ gss.widen.weight.T) * v) @ gss.output.weight.T + gss.output.bias + x


def test_residual_of_it_is_the_published_block() -> None:
    block = Residual(GSS(6, d_inner=9, d_ssm=4, d_state=5)).double()
    torch.nn.init.normal_(block.norm.norm.weight)
    torch.nn.init.normal_(block.layer.norm.bias)
    x = torch.randn(1, 12, 6, dtype=torch.float64)
    with torch.no_grad():
        expected = published_block(block, x[0])
        assert (block(x)[0] - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_its_narrow_part_is_dss_with_a_step_of_one() -> None:
    narrow = UnitStepDSS(3, 8).double()
    dss = DSS(3, 8, dt_min=1.0, dt_max=1.0).double()
    dss.A_real.data.copy_(narrow.A_real)
    dss.A_imag.data.copy_(narrow.A_imag.exp())
    dss.C.data.copy_(narrow.C)
    for rate in (1.0, 0.5):
        ours, expected = (lti_kernel(layer.system(rate), 60, dtype=torch.float64) for layer in (narrow, dss))
        assert (ours - expected).abs().max() <= 1e-13 * expected.abs().max()
    x, intervals = torch.randn(1, 20, 3, dtype=torch.float64), torch.rand(1, 20, dtype=torch.float64)
    dss.D.data.copy_(narrow.D)
    dss.output = torch.nn.Identity()
    assert (narrow(x, rate=intervals) - dss(x, rate=intervals)).abs().max() <= 1e-13 * narrow(x).abs().max()


def test_intervals_keep_their_laws() -> None:
    checks.check_gradients_of_rate(GSS(4, d_ssm=3, d_state=5))
    checks.check_substeps(UnitStepDSS(3, 5).double())


def test_published_widths() -> None:
    layer = GSS(1024)
    assert layer.gate.weight.shape == (4096, 1024)
    assert layer.narrow.weight.shape == (256, 1024)
    assert layer.ssm.C.shape == (1, 256, 512, 2)
    assert layer.initial_state(2).x.shape == (2, 256, 512, 2)
    assert sum(p.numel() for p in layer.parameters()) < 10_500_000
    assert all(module.bias is None for module in (layer.gate, layer.narrow, layer.widen))


def test_modes_learn_slowly() -> None:
    own = {name for name, _ in UnitStepDSS(4, 8).named_parameters()}
    assert {name for name, rule in UnitStepDSS.optimizer_rules.items() if rule is SLOW} == own - {"D"}


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: GSS(0), "`d_model` is 0, but a positive integer is needed"),
        (lambda: GSS(8, d_inner=0), "`d_inner` is 0, but a positive integer is needed"),
        (lambda: GSS(8, d_ssm=1), "`d_ssm` is 1, but a layer norm of one feature is always 0; use 2 or more"),
        (lambda: GSS(8, d_state=0), "`d_state` is 0, but a positive integer is needed"),
        (lambda: GSS(8)(torch.zeros(2, 9, 4)), r"`x` has shape \(2, 9, 4\), but \(batch, length, 8\) is needed"),
        (lambda: GSS(8).step(torch.zeros(2, 1, 8), GSS(8).initial_state(2)), "without a time axis"),
        (lambda: GSS(8)(torch.zeros(2, 9, 8), lengths=torch.tensor([9, 10])), "row 1 has 10"),
        (lambda: GSS(8)(torch.zeros(2, 9, 8), rate=0.0), "`rate` is 0.0, but a positive number is needed"),
    ],
)
def test_errors_say_what_to_do(build, text: str) -> None:
    with pytest.raises(InputError, match=text):
        build()
