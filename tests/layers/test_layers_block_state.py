"""The Block-State Transformer against loops over its sentences, across the borders of windows."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from longstate import BlockStateTransformer, InputError
from longstate.layers import S4, S4D
from longstate.layers.rotary import rotate
from longstate.models import (
    BackboneConfig,
    BlockStateConfig,
    FeedForwardConfig,
    LanguageModel,
    LanguageModelConfig,
    config_to_dict,
)
from longstate.models.serial import language_model_from_dict

D, WINDOW, HEADS, WIDTH, FILTERS = 6, 4, 3, 2, 5
VARIANTS = ("single_head", "multi_head", "multi_filter")


def build(variant: str, window: int = WINDOW, **options: object) -> BlockStateTransformer:
    layer = BlockStateTransformer(
        D, window, variant=variant, n_heads=HEADS, head_dim=WIDTH, n_filters=FILTERS, d_state=4, dt_min=0.05, **options
    )
    with torch.no_grad():  # nothing starts so small that its absence would not show
        for parameter in (layer.filter_vectors, layer.first_context):
            if parameter is not None:
                parameter.copy_(torch.randn_like(parameter))
    return layer.double()


def by_hand(layer: BlockStateTransformer, x: Tensor) -> Tensor:
    """One sequence (length, d_model), element by element and head by head, from the outputs of the state space."""
    length, window = len(x), layer.window
    c = layer.ssm(x[None])[0].reshape(length, layer.channels, D)
    q, k, v = (proj(x).reshape(length, -1, WIDTH) for proj in (layer.q_proj, layer.k_proj, layer.v_proj))

    def lifted(contexts: Tensor, weight: Tensor, head: int) -> Tensor:
        """The keys or values of one head from contexts (n, d_model)."""
        rows = weight[head] if layer.variant == "multi_head" else weight[0, head * WIDTH : (head + 1) * WIDTH]
        return contexts @ rows.T

    def turned(vectors: Tensor, places: list[int]) -> Tensor:
        if layer.rotary_base is None:
            return vectors
        return rotate(vectors[None, :, None], torch.tensor([places]), layer.rotary_base)[0, :, 0]

    def mean(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return torch.softmax(keys @ query / WIDTH**0.5, dim=0) @ values

    y = []
    for i in range(length):
        begin = i - i % window
        seen, places = range(begin, i + 1), list(range(i - begin + 1))
        outputs = []
        for h in range(HEADS):
            query = turned(q[i, h][None], places[-1:])[0]
            outputs.append(mean(query, turned(k[seen, h], places), v[seen, h]))
        for h in range(HEADS):
            query = q[i, HEADS + h]
            if layer.variant == "multi_filter":
                contexts = layer.first_context if begin == 0 else c[begin - 1]
                contexts = contexts + layer.filter_vectors
                keys = lifted(contexts, layer.context_k, h)
            else:
                contexts = c[seen, h if layer.variant == "multi_head" else 0]
                query = turned(query[None], places[-1:])[0]
                keys = turned(lifted(contexts, layer.context_k, h), places)
            outputs.append(mean(query, keys, lifted(contexts, layer.context_v, h)))
        y.append(layer.o_proj(torch.cat(outputs)))
    return torch.stack(y)


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-11) -> bool:
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("options", [{}, {"rotary_base": None, "bias": True, "layer": "s4"}], ids=["s4d", "s4"])
@given(length=st.integers(1, 14), window=st.integers(1, 6))
def test_the_layer_is_its_loop(variant: str, options: dict[str, object], length: int, window: int) -> None:
    layer = build(variant, window, **options)
    x = torch.randn(2, length, D, dtype=torch.float64)
    assert close(layer(x), torch.stack([by_hand(layer, row) for row in x]))


@pytest.mark.parametrize("variant", VARIANTS)
def test_steps_are_the_loop_too(variant: str) -> None:
    layer, x = build(variant), torch.randn(1, 11, D, dtype=torch.float64)
    state, y = layer.initial_state(1), []
    for t in range(11):
        y_t, state = layer.step(x[:, t], state)
        y.append(y_t)
        filled = (state.k[0].abs().sum((1, 2)) > 0).tolist()
        seen = (t + 1) % WINDOW
        assert filled == [False] * (WINDOW - 1 - seen) + [True] * seen
    assert close(torch.stack(y, dim=1), by_hand(layer, x[0])[None])
    assert state.next.tolist() == [11]


def reach(layer: BlockStateTransformer, x: Tensor) -> list[list[bool]]:
    """For every output which inputs it depends on, beyond the rounding of an FFT."""
    slopes = [torch.autograd.grad(y.square().sum(), x, retain_graph=True)[0][0] for y in layer(x)[0]]
    return [(slope.abs().amax(-1) > 1e-12 * slope.abs().max()).tolist() for slope in slopes]


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_element_depends_on_all_before_it_and_nothing_after(variant: str) -> None:
    layer, x = build(variant), torch.randn(1, 10, D, dtype=torch.float64, requires_grad=True)
    assert reach(layer, x) == [[j <= i for j in range(10)] for i in range(10)]
    with torch.no_grad():  # what crosses the border of a window is the state space alone
        layer.ssm.C.zero_()
        layer.ssm.D.zero_()
    assert reach(layer, x) == [[i - i % WINDOW <= j <= i for j in range(10)] for i in range(10)]


def test_the_first_window_sees_the_learned_context() -> None:
    layer, x = build("multi_filter"), torch.randn(2, 6, D, dtype=torch.float64)
    y = layer(x)
    layer.first_context.data.add_(1.0)
    moved = (layer(x) - y).abs().sum(-1) > 1e-9
    assert moved.tolist() == [[True] * WINDOW + [False] * 2] * 2


def test_a_state_keeps_nothing_of_the_parameters() -> None:
    layer = build("multi_filter")
    state = layer.initial_state(2)
    assert all(part.abs().max() == 0 for part in (state.ssm, state.k, state.v, state.context))
    _, state = layer.forward_with_state(torch.randn(2, WINDOW - 1, D, dtype=torch.float64), state)
    assert state.context.abs().max() == 0
    _, state = layer.forward_with_state(torch.randn(2, 1, D, dtype=torch.float64), state)
    assert state.context.abs().min() > 0
    assert state.k.abs().max() == 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_long_sequences_in_uneven_chunks(variant: str) -> None:
    layer, x = build(variant, window=32), torch.randn(3, 300, D, dtype=torch.float64)
    state, outputs = layer.initial_state(3), []
    for chunk in x.split([1, 31, 40, 100, 64, 7, 57], dim=1):
        y, state = layer.forward_with_state(chunk, state)
        outputs.append(y)
    assert close(torch.cat(outputs, dim=1), layer(x))


def test_the_rate_is_that_of_the_state_space() -> None:
    layer, slow = build("single_head"), build("single_head")
    slow.load_state_dict(layer.state_dict())
    slow.ssm.log_dt.data.add_(math.log(2))
    x = torch.randn(1, 9, D, dtype=torch.float64)
    assert close(layer(x, rate=2.0), slow(x))
    assert close(layer(x, rate=torch.full((1, 9), 2.0, dtype=torch.float64)), slow(x))
    with pytest.raises(InputError, match="S4 is time invariant and takes one number"):
        build("multi_head", layer="s4")(x, rate=torch.ones(1, 9, dtype=torch.float64))


def test_the_state_space_is_a_layer_like_any_other() -> None:
    assert isinstance(build("multi_head").ssm, S4D)
    layer = build("multi_filter", layer="s4", init="legt", n_ssm=2)
    assert isinstance(layer.ssm, S4)
    assert layer.ssm.C.shape[0] == FILTERS
    assert len(layer.ssm.A_real) == 2
    assert {name for name, _ in layer.named_parameters() if name.startswith("ssm.output")} == set()


def test_a_model_of_it_is_described_and_read_back() -> None:
    block = BlockStateConfig(window=4, variant="multi_head", n_heads=2, layer="s4", init="fourier", d_state=4)
    feed = FeedForwardConfig(activation="swiglu")
    config = LanguageModelConfig(backbone=BackboneConfig(d_model=8, n_layers=2, pattern=(block, feed), norm="rms"))
    assert language_model_from_dict(config_to_dict(config)) == config
    model = LanguageModel(config).eval()
    ids = torch.randint(256, (1, 11))
    logits, state = model.forward_with_state(ids[:, :7], model.initial_state(1))
    more, _ = model.forward_with_state(ids[:, 7:], state)
    assert torch.allclose(torch.cat([logits, more], dim=1), model(ids), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: BlockStateTransformer(8, 0), "`window` is 0, but a positive integer is needed"),
        (
            lambda: BlockStateTransformer(8, variant="SH"),
            "`variant` is 'SH', but one of single_head, multi_head, multi_filter is needed",
        ),
        (lambda: BlockStateTransformer(8, layer="s5"), "`layer` is 's5', but one of s4d, s4 is needed"),
        (lambda: BlockStateTransformer(8, n_heads=3), "`n_heads` is 3, but a divisor of d_model=8 is needed"),
        (lambda: BlockStateTransformer(8), "`rotary_base` is 10000.0 with head_dim 1, but a base above 1 and an even"),
        (lambda: BlockStateTransformer(8, n_heads=2, d_state=3), "`d_state`"),
        (
            lambda: BlockStateTransformer(8, 4, n_heads=2)(torch.zeros(1, 3, 9)),
            r"`x` has shape \(1, 3, 9\), but \(batch, length, 8\) is needed",
        ),
        (
            lambda: BlockStateTransformer(8, 4, n_heads=2).step(
                torch.zeros(1, 9), BlockStateTransformer(8, 4, n_heads=2).initial_state(1)
            ),
            r"`x_t` has shape \(1, 9\), but \(batch, 8\) is needed",
        ),
        (
            lambda: BlockStateTransformer(8, 4, n_heads=2).forward_with_state(
                torch.zeros(1, 3, 8), BlockStateTransformer(8, 5, n_heads=2).initial_state(1)
            ),
            "start from `initial_state",
        ),
    ],
)
def test_errors(build, text: str) -> None:
    with pytest.raises(InputError, match=text):
        build()
