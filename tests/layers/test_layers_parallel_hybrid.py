"""Attention beside Mamba-2: the sum of two layers, which share nothing but their input."""

import pytest
import torch

from longstate import InputError, LanguageModel, ParallelHybrid
from longstate.inference import select_rows
from longstate.models import BackboneConfig, LanguageModelConfig, ParallelHybridConfig


def build(**options: object) -> ParallelHybrid:
    return ParallelHybrid(8, 2, **{"d_state": 4, "ssm_head_dim": 4, **options}).double()


def test_it_is_the_sum_of_both() -> None:
    layer, x = build(), torch.randn(2, 11, 8, dtype=torch.float64)
    assert torch.equal(layer(x), layer.attention(x) + layer.ssm(x))


def test_arguments_reach_the_part_they_name() -> None:
    layer = build(n_kv_heads=1, head_dim=6, window=3, rotary_base=100.0, bias=True, d_conv=2, d_inner=12, n_groups=3)
    assert layer.attention.k_proj.weight.shape == (6, 8)
    assert (layer.attention.window, layer.attention.rotary_base) == (3, 100.0)
    assert layer.attention.k_proj.bias is not None
    assert layer.ssm.conv_weight.shape == (12 + 2 * 3 * 4, 2)
    assert layer.ssm.in_proj.bias is None
    other = build(dt_floor=0.1, dt_ceiling=0.2, gate="norm_first", norm_eps=0.5, conv_bias=False, ssm_bias=True)
    assert other.ssm.dt_limit == (0.1, 0.2)
    assert (other.ssm.norm.kind, other.ssm.norm.eps) == ("norm_first", 0.5)
    assert other.ssm.conv_bias is None
    assert other.ssm.in_proj.bias is not None
    assert other.attention.k_proj.bias is None
    narrow = build(dt_min=0.01, dt_max=0.0101).ssm.dt_bias
    assert torch.allclose(torch.nn.functional.softplus(narrow), torch.full_like(narrow, 0.01), rtol=0.02)


def test_the_rate_reaches_mamba2_alone() -> None:
    layer, x = build(), torch.randn(2, 11, 8, dtype=torch.float64)
    rate = torch.rand(2, 11, dtype=torch.float64) + 0.5
    assert torch.equal(layer(x, rate=rate), layer.attention(x) + layer.ssm(x, rate=rate))
    y, state = layer.forward_with_state(x, layer.initial_state(2), rate=2.0)
    assert torch.allclose(y, layer(x, rate=2.0))
    stepped, _ = layer.step(x[:, 0], state, constants=layer.constants(rate=2.0))
    wanted, _ = layer.step(x[:, 0], state, rate=2.0)
    assert torch.equal(stepped, wanted)
    assert not torch.equal(stepped, layer.step(x[:, 0], state)[0])


def test_rows_of_both_states_are_taken_together() -> None:
    layer, x = build(), torch.randn(2, 5, 8, dtype=torch.float64)
    y, state = layer.forward_with_state(x, layer.initial_state(2))
    assert y.shape == x.shape
    turned = select_rows(state, torch.tensor([1, 0]))
    assert torch.allclose(layer.step(x[[1, 0], 0], turned)[0], layer.step(x[:, 0], state)[0][[1, 0]])


def test_outputs_of_both_are_scaled_in_a_language_model() -> None:
    layer = ParallelHybridConfig(n_heads=2, d_state=4, ssm_head_dim=4)
    torch.manual_seed(0)
    deep = LanguageModel(LanguageModelConfig(backbone=BackboneConfig(d_model=8, n_layers=4, layer=layer)))
    for name in ("attention.o_proj.weight", "ssm.out_proj.weight"):
        first = dict(deep.named_parameters())[f"backbone.layers.0.layer.{name}"]
        assert float(first.detach().abs().max()) <= 0.5 * first.shape[1] ** -0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_kv_heads": 3}, "`n_kv_heads` is 3, but a divisor of n_heads=2 is needed"),
        ({"ssm_head_dim": 5}, "d_ssm is 16 with head_dim 5 and n_groups 1, but at most 16 channels"),
        ({"gate": "both"}, "`gate` is 'both', but one of gate_first, norm_first, none is needed"),
        ({"rotary_base": 10.0, "head_dim": 3}, "`rotary_base` is 10.0 with head_dim 3, but a base above 1"),
    ],
)
def test_what_a_part_refuses_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(**options)
