"""Attention, feed-forward and experts as layers: what the laws do not say."""

import pytest
import torch
from torch.nn import functional as F

from longstate import Attention, FeedForward, InputError, MixtureOfExperts


def test_attention_is_torchs_own_multihead_attention() -> None:
    layer = Attention(8, 4, bias=True).double()
    other = torch.nn.MultiheadAttention(8, 4, batch_first=True).double()
    with torch.no_grad():
        other.in_proj_weight.copy_(torch.cat([layer.q_proj.weight, layer.k_proj.weight, layer.v_proj.weight]))
        other.in_proj_bias.copy_(torch.cat([layer.q_proj.bias, layer.k_proj.bias, layer.v_proj.bias]))
    other.out_proj = layer.o_proj
    x = torch.randn(2, 11, 8, dtype=torch.float64)
    mask = torch.ones(11, 11, dtype=torch.bool).triu(1)
    assert torch.allclose(layer(x), other(x, x, x, attn_mask=mask, need_weights=False)[0], atol=1e-12)


def test_convolution_part_of_the_rotation_and_scale_by_hand() -> None:
    layer = Attention(6, 2, n_kv_heads=1, head_dim=4, rotary_base=50.0, rotary_dim=2, d_conv=3, scale=0.7).double()
    x = torch.randn(1, 9, 6, dtype=torch.float64)
    qkv = torch.cat([layer.q_proj(x), layer.k_proj(x), layer.v_proj(x)], -1)
    weight, bias = layer.conv_weight, layer.conv_bias
    assert weight is not None
    qkv = F.conv1d(qkv.mT, weight[:, None], bias, padding=2, groups=16)[..., :9].mT
    q, k, v = (part.unflatten(-1, (-1, 4)) for part in qkv.split([8, 4, 4], dim=-1))
    turn = torch.polar(torch.ones(9, dtype=torch.float64), torch.arange(9.0, dtype=torch.float64))  # base^0 = 1
    turned = []
    for part in (q, k):
        pair = torch.view_as_real(torch.complex(part[..., 0], part[..., 1]) * turn[:, None])
        turned.append(torch.cat([pair, part[..., 2:]], -1))
    q, k = turned
    y = torch.zeros(9, 2, 4, dtype=torch.float64)
    for i in range(9):
        for h in range(2):
            weights = torch.softmax(0.7 * k[0, : i + 1, 0] @ q[0, i, h], 0)
            y[i, h] = weights @ v[0, : i + 1, 0]
    assert torch.allclose(layer(x)[0], layer.o_proj(y.flatten(1)), atol=1e-12)


def test_a_window_has_a_state_of_fixed_size_and_forgets_what_is_behind_it() -> None:
    layer = Attention(4, 2, window=3).double()
    x = torch.randn(1, 50, 4, dtype=torch.float64)
    other = x.clone()
    other[:, :47] = 0
    _, state = layer.forward_with_state(x, layer.initial_state(1))
    assert state.k.shape == (1, 2, 2, 2)
    assert torch.equal(state.position, torch.tensor([[48, 49]]))
    assert torch.allclose(layer(x)[:, -1], layer(other)[:, -1], atol=1e-14)


def test_a_cache_grows_with_what_the_longest_row_has_seen() -> None:
    layer = Attention(4, 2)
    x = torch.randn(3, 10, 4)
    _, state = layer.forward_with_state(x, layer.initial_state(3), lengths=torch.tensor([0, 7, 4]))
    assert state.k.shape[1] == 7
    assert torch.equal(state.next, torch.tensor([0, 7, 4]))
    assert torch.equal(state.position[2], torch.tensor([-1, -1, -1, 0, 1, 2, 3]))


@pytest.mark.parametrize("d_shared", [None, 3])
@pytest.mark.parametrize("normalise", [False, True])
def test_experts_are_the_weighted_sum_of_the_chosen_maps(normalise: bool, d_shared: int | None) -> None:
    layer = MixtureOfExperts(4, 6, n_experts=5, top_k=2, normalise=normalise, d_shared=d_shared).double()
    x = torch.randn(2, 7, 4, dtype=torch.float64)
    expected = torch.zeros_like(x)
    for b in range(2):
        for t in range(7):
            p = torch.softmax(layer.router.weight @ x[b, t], 0)
            best = p.argsort(descending=True)[:2]
            total = p[best].sum() if normalise else 1.0
            for e in best:
                value, gate = (layer.in_proj[e] @ x[b, t]).chunk(2)
                expected[b, t] += p[e] / total * (layer.out_proj[e] @ (value * F.silu(gate)))
    if layer.shared is not None:
        expected = expected + layer.shared(x)
    assert torch.allclose(layer(x), expected, atol=1e-12)
    assert torch.allclose(torch.compile(layer, backend="eager", fullgraph=True)(x), expected, atol=1e-12)


@pytest.mark.parametrize("d_latent", [None, 3])
@pytest.mark.parametrize("normalise", [False, True])
def test_experts_chosen_by_sigmoid_and_bias_are_weighted_without_the_bias(
    normalise: bool, d_latent: int | None
) -> None:
    options = {"normalise": normalise, "d_latent": d_latent, "activation": "relu2", "scale": 2.5}
    layer = MixtureOfExperts(4, 6, n_experts=5, top_k=2, scores="sigmoid", **options).double()
    assert layer.score_bias is not None
    layer.score_bias.normal_()
    x, expected, by_score = torch.randn(2, 7, 4, dtype=torch.float64), torch.zeros(2, 7, 4, dtype=torch.float64), 0
    for b in range(2):
        for t in range(7):
            p = torch.sigmoid(layer.router.weight @ x[b, t])
            best = (p + layer.score_bias).argsort(descending=True)[:2]
            by_score += set(best.tolist()) == set(p.argsort(descending=True)[:2].tolist())
            h = x[b, t] if layer.latent_in is None else layer.latent_in(x[b, t])
            total = p[best].sum() if normalise else 1.0
            mixed = sum(
                2.5 * p[e] / total * (layer.out_proj[e] @ (layer.in_proj[e] @ h).clamp(min=0) ** 2) for e in best
            )
            expected[b, t] = mixed if layer.latent_out is None else layer.latent_out(mixed)
    assert by_score < 14
    assert torch.allclose(layer(x), expected, atol=1e-12)
    assert torch.allclose(torch.compile(layer, backend="eager", fullgraph=True)(x), expected, atol=1e-12)


def test_scores_that_are_all_zero_share_nothing() -> None:
    layer = MixtureOfExperts(1, 2, n_experts=2, scores="sigmoid", normalise=True)
    torch.nn.init.constant_(layer.router.weight, -1e4)
    assert torch.equal(layer(torch.ones(1, 3, 1)), torch.zeros(1, 3, 1))


def test_feed_forward_forms() -> None:
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    gated = FeedForward(4, 6, activation="swiglu").double()
    value, gate = gated.in_proj(x).chunk(2, dim=-1)
    assert torch.allclose(gated(x), gated.out_proj(value * gate * torch.sigmoid(gate)), atol=1e-14)
    squared = FeedForward(4, activation="relu2").double()
    assert squared.in_proj.out_features == 16
    assert torch.allclose(squared(x), squared.out_proj(squared.in_proj(x).clamp(min=0) ** 2), atol=1e-14)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: Attention(8, 3), "`n_heads` is 3, but a divisor of d_model=8 is needed; choose one, or give head_dim"),
        (lambda: Attention(8, 4, n_kv_heads=3), "`n_kv_heads` is 3, but a divisor of n_heads=4 is needed"),
        (lambda: Attention(8, 4, window=0), "`window` is 0, but a positive integer is needed"),
        (lambda: Attention(9, 3, rotary_base=10.0), "`rotary_base` is 10.0 with head_dim 3, but .* an even width"),
        (lambda: Attention(8, 2, rotary_base=10.0, rotary_dim=6), "and rotary_dim is 6; use 10_000.0 and an even head"),
        (lambda: Attention(8, 2, d_conv=-1), "`d_conv` is -1, but a positive integer is needed"),
        (lambda: Attention(8, 2, scale=0.0), "`scale` is 0.0, but a positive number is needed; None means head_dim"),
        (lambda: FeedForward(4, activation="tanh"), "`activation` is 'tanh', but one of gelu, swiglu, relu2 is needed"),
        (lambda: MixtureOfExperts(4, scores="tanh"), "`scores` is 'tanh', but one of softmax, sigmoid is needed"),
        (lambda: MixtureOfExperts(4, d_latent=0), "`d_latent` is 0, but a positive integer is needed"),
        (lambda: MixtureOfExperts(4, n_experts=2, top_k=3), "`top_k` is 3, but there are 2 experts to choose from"),
    ],
)
def test_errors(build, text: str) -> None:
    with pytest.raises(InputError, match=text):
        build()
