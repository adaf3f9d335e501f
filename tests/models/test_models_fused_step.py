"""A step of a whole backbone as one call: its values, and when it stands back."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.utils import _pytree

from longstate.layers import S4D
from longstate.layers.lti_fused import FusedStack
from longstate.layers.pointwise import build_output
from longstate.models import (
    Backbone,
    BackboneConfig,
    DSSConfig,
    EMAConfig,
    FeedForwardConfig,
    LSSLConfig,
    S4Config,
    S4DConfig,
    S5Config,
)
from longstate.ops import _native

WIDTH, STEPS = 6, 9
KNOWN = [
    BackboneConfig(WIDTH, 2, S4DConfig(d_state=8)),
    BackboneConfig(WIDTH, 2, S4DConfig(d_state=3, init="real", output="linear", channels=2), norm="rms"),
    BackboneConfig(WIDTH, 1, S4DConfig(d_state=8, output="none"), branch_scale=0.3, norm_eps=1e-3),
    BackboneConfig(WIDTH, 2, S4Config(d_state=8)),
    BackboneConfig(WIDTH, 2, DSSConfig(d_state=4)),
    BackboneConfig(WIDTH, 1, pattern=(EMAConfig(), LSSLConfig(d_state=4), S4Config(d_state=4))),
]
UNKNOWN = [
    (BackboneConfig(WIDTH, 1, pattern=(S4DConfig(), FeedForwardConfig())), "around a time-invariant system"),
    (BackboneConfig(WIDTH, 1, S5Config()), "around a time-invariant system"),
    (BackboneConfig(WIDTH, 1, S4DConfig(), norm="batch"), "knows the norms 'layer' and 'rms'"),
]
needs_kernels = pytest.mark.skipif(_native.library() is None, reason="no compiled kernels on this machine")


def made(config: BackboneConfig = KNOWN[0], batch: int = 2):
    """A backbone in eval mode, an input, a state that some past has led to, and constants."""
    torch.manual_seed(0)
    backbone = Backbone(config).eval()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        x = torch.randn(batch, STEPS, WIDTH)
        state = backbone.forward_with_state(x, backbone.initial_state(batch))[1]
        return backbone, x, state, backbone.constants()


def in_parts(backbone, x_t, state, constants):
    return backbone.step(x_t, state, constants=constants._replace(fused="left out"))


def why_not(backbone, x_t, state, constants) -> str:
    return str(constants.fused.why_not(backbone, x_t, state, constants.layers))


def same(found, expected) -> None:
    for one, other in zip(_pytree.tree_leaves(found), _pytree.tree_leaves(expected), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-5, atol=2e-5)


@needs_kernels
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("config", KNOWN, ids=lambda config: "-".join(type(part).__name__ for part in config.schedule))
def test_equals_the_layers_one_by_one(config: BackboneConfig, batch: int) -> None:
    backbone, x, state, constants = made(config, batch)
    expected = state
    with torch.inference_mode():
        for t in range(STEPS):
            assert why_not(backbone, x[:, t], state, constants) == "None"
            y, state = backbone.step(x[:, t], state, constants=constants)
            expected_y, expected = in_parts(backbone, x[:, t], expected, constants)
            same((y, state), (expected_y, expected))
            assert _pytree.tree_structure(state) == _pytree.tree_structure(expected)


@needs_kernels
@pytest.mark.parametrize("kind", ["full_glu", "gelu"])
def test_outputs_of_other_papers(kind: str) -> None:
    backbone, x, state, _ = made()
    for layer in backbone.layers:
        layer.layer.output = build_output(kind, WIDTH, WIDTH, 0.0)
    with torch.no_grad():
        constants = backbone.constants()
        assert why_not(backbone, x[:, 0], state, constants) == "None"
        same(backbone.step(x[:, 0], state, constants=constants), in_parts(backbone, x[:, 0], state, constants))
        backbone.layers[0].layer.output = build_output("half_glu1", WIDTH, WIDTH, 0.0)
        assert "knows the outputs 'glu'" in str(backbone.constants().fused)


@pytest.mark.parametrize(("config", "text"), UNKNOWN)
def test_says_why_a_backbone_is_not_one_call(config: BackboneConfig, text: str) -> None:
    backbone = Backbone(config).eval()
    constants = backbone.constants()
    assert text in str(constants.fused)
    backbone.step(torch.randn(1, WIDTH), backbone.initial_state(1), constants=constants)


def test_a_step_of_its_own_is_respected() -> None:
    class Doubled(S4D):
        def step(self, x_t, state, *, rate=None, constants=None):
            return super().step(2 * x_t, state, rate=rate, constants=constants)

    backbone = made()[0]
    backbone.layers[1].layer = Doubled(WIDTH)
    assert "needs the step of LTILayer, and Doubled has one of its own" in str(backbone.constants().fused)
    assert "needs float32 tensors on the cpu" in str(made()[0].double().constants().fused)


@needs_kernels
def test_follows_the_parameters() -> None:
    backbone, x, state, constants = made()
    new = {name: 1.1 * value for name, value in backbone.state_dict().items()}
    with torch.no_grad():
        before = backbone.step(x[:, 0], state, constants=constants)[0]
        backbone.load_state_dict(new)
        assert why_not(backbone, x[:, 0], state, constants) == "None"
        after = backbone.step(x[:, 0], state, constants=constants)
        assert not torch.allclose(before, after[0], atol=1e-3)
        same(after, in_parts(backbone, x[:, 0], state, constants))


def _hook(backbone: Backbone) -> None:
    backbone.layers[0].layer.output.linear.register_forward_hook(lambda module, given, y: y)


def _drop(backbone: Backbone) -> None:
    backbone.layers[1].dropout.train()


def _swap_norm(backbone: Backbone) -> None:
    backbone.norm = copy.deepcopy(backbone.norm)


def _swap_layer(backbone: Backbone) -> None:
    backbone.layers[0] = copy.deepcopy(backbone.layers[0])


def _swap_weight(backbone: Backbone) -> None:
    linear = backbone.layers[0].layer.output.linear
    linear.weight = nn.Parameter(2 * linear.weight)


def _move(backbone: Backbone) -> None:
    backbone.double().float()


@needs_kernels
@pytest.mark.parametrize(
    ("change", "text"),
    [
        (_hook, "pass by the hooks"),
        (_drop, "eval mode"),
        (_swap_norm, "compute the constants again"),
        (_swap_layer, "compute the constants again"),
        (_swap_weight, "compute the constants again"),
        (_move, "where they were"),
    ],
)
def test_stands_back_from_a_changed_module(change, text: str) -> None:
    backbone, x, state, constants = made()
    with torch.no_grad():
        assert why_not(backbone, x[:, 0], state, constants) == "None"
        change(backbone)
        assert text in why_not(backbone, x[:, 0], state, constants)
        torch.manual_seed(1)
        found = backbone.step(x[:, 0], state, constants=constants)
        torch.manual_seed(1)
        expected = in_parts(backbone, x[:, 0], state, constants)
        assert all(map(torch.equal, _pytree.tree_leaves(found), _pytree.tree_leaves(expected)))


@needs_kernels
def test_stands_back_from_other_arguments() -> None:
    backbone, x, state, constants = made()
    x_t = x[:, 0]
    assert "no_grad or inference_mode" in why_not(backbone, x_t, state, constants)
    y, _ = backbone.step(x_t, state, constants=constants)
    assert y.requires_grad
    with torch.no_grad():
        assert "for another module" in why_not(copy.deepcopy(backbone), x_t, state, constants)
        rebuilt = constants._replace(layers=_pytree.tree_map(torch.clone, constants.layers))
        assert "for other constants" in why_not(backbone, x_t, state, rebuilt)
        assert "one LTIState for every layer" in why_not(backbone, x_t, state[:1], constants)
        assert "contiguous float32" in why_not(backbone, x_t.bfloat16(), state, constants)
        rate = torch.ones(2)
        same(backbone.step(x_t, state, rate=rate), backbone.step(x_t, state, constants=constants))
        mapped = torch.vmap(lambda x: backbone.step(x, state, constants=constants)[0])(torch.stack([x_t, 2 * x_t]))
        same(mapped[0], backbone.step(x_t, state, constants=constants)[0])


@needs_kernels
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies(copied) -> None:
    backbone, x, state, constants = made()
    twin, its = copied((backbone, constants))
    alone = copied(constants)
    with torch.no_grad():
        expected = backbone.step(x[:, 0], state, constants=constants)
        for parameter in backbone.parameters():
            parameter.fill_(torch.nan)
        assert isinstance(its.fused, FusedStack)
        assert why_not(twin, x[:, 0], state, its) == "None"
        same(twin.step(x[:, 0], state, constants=its), expected)
        assert "for another module" in why_not(twin, x[:, 0], state, alone)


def test_constants_go_into_programs() -> None:
    backbone, x, state, constants = made()

    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = backbone

        def forward(self, x_t, state, constants):
            return self.backbone.step(x_t, state, constants=constants)

    arguments = (x[:, 0], state, constants)
    with torch.no_grad():
        same(torch.export.export(Step(), arguments).module()(*arguments), Step()(*arguments))
        torch.compiler.reset()
        same(torch.compile(Step(), fullgraph=True, backend="aot_eager")(*arguments), Step()(*arguments))
        torch.compiler.reset()
