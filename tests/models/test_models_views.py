"""Models: three views of one answer, raw input, and every argument passed through."""

import copy
import dataclasses
import inspect
import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from longstate import InputError
from longstate.diagnostics.laws import views
from longstate.layers import CausalLayer, Residual
from longstate.layers.norm import BatchNorm
from longstate.models import (
    Backbone,
    BackboneConfig,
    BidirectionalClassifier,
    BidirectionalClassifierConfig,
    CausalModel,
    ClassifierConfig,
    InputStatistics,
    ModelConfig,
    RegressorConfig,
    S4Config,
    S4DConfig,
    StepRegressorConfig,
    TaggerConfig,
    TargetStatistics,
    build,
)

STATISTICS = InputStatistics((100.0, -5.0), (20.0, 0.5))
D = BackboneConfig(d_model=4, n_layers=2, layer=S4DConfig(d_state=4))
P = BackboneConfig(d_model=4, n_layers=2, layer=S4Config(d_state=4), norm="batch")
TARGETS = TargetStatistics((70.0, 0.0, 1.0), (12.0, 1.0, 2.0))
CAUSAL = [
    ClassifierConfig(d_input=2, classes=("a", "b", "c"), backbone=D, statistics=STATISTICS),
    ClassifierConfig(d_input=2, classes=("a", "b", "c"), backbone=P, pooling="last"),
    TaggerConfig(d_input=2, classes=("a", "b", "c"), backbone=P, statistics=STATISTICS),
    RegressorConfig(d_input=2, targets=("a", "b", "c"), backbone=D, target_statistics=TARGETS),
    StepRegressorConfig(d_input=2, targets=("a", "b", "c"), backbone=D, target_statistics=TARGETS),
]
EVERY_STEP = ("tagger", "step_regressor")
BOTH_WAYS = BidirectionalClassifierConfig(d_input=2, classes=("a", "b"), backbone=D, statistics=STATISTICS)
EACH = pytest.mark.parametrize("config", CAUSAL, ids=["mean", "last", "tagger", "regressor", "step_regressor"])


def made(config: ModelConfig, dtype: torch.dtype = torch.float64) -> Any:
    model = build(config).to(dtype).eval()
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return model


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    assert found.shape == expected.shape
    scale = expected.detach().abs().max() if expected.numel() else 1.0
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=tolerance)


def raw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype) * 20 + 100


@EACH
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
def test_parallel_is_stepped_is_chunked(config: ModelConfig, dtype: torch.dtype, tolerance: float) -> None:
    model, x = made(config, dtype), raw(3, 50, 2, dtype=dtype)
    with torch.no_grad():
        running, after = model.forward_with_state(x, model.initial_state(3))
        assert running.shape == (3, 50, 3)
        stepped, state, constants = [], model.initial_state(3), model.constants()
        for t in range(50):
            y, state = model.step(x[:, t], state, constants=constants)
            assert y.shape == (3, 3)
            stepped.append(y)
        close(torch.stack(stepped, 1), running, tolerance)
        for cut in (0, 1, 7, 50):
            first, half = model.forward_with_state(x[:, :cut], model.initial_state(3))
            second, end = model.forward_with_state(x[:, cut:], half)
            close(torch.cat([first, second], 1), running, tolerance)
        more = raw(3, 8, 2, dtype=dtype)
        going_on = [model.forward_with_state(more, state)[0] for state in (after, state, end)]
        close(going_on[1], going_on[0], tolerance)
        close(going_on[2], going_on[0], tolerance)
        whole = model(x)
        close(whole, running if config.kind in EVERY_STEP else running[:, -1], tolerance)


@EACH
@pytest.mark.parametrize("filler", [float("nan"), 1e4])
def test_padded_rows_are_the_rows_alone(config: ModelConfig, filler: float) -> None:
    model, x = made(config), raw(4, 20, 2)
    lengths = torch.tensor([20, 0, 1, 13])
    x[torch.arange(20) >= lengths[:, None]] = filler
    with torch.no_grad():
        _, carried = model.forward_with_state(raw(4, 5, 2), model.initial_state(4))
        whole = model(x, lengths=lengths)
        running, after = model.forward_with_state(x, carried, lengths=lengths)
        next_answer = model.step(torch.zeros(4, 2, dtype=x.dtype), after)[0]
        for row, length in enumerate(lengths.tolist()):
            one = slice(row, row + 1)
            alone = x[one, :length]
            expected = model(alone)
            close(whole[one, :length] if config.kind in EVERY_STEP else whole[one], expected)
            before = (
                tuple(part._replace(x=part.x[one]) for part in carried[0]),
                carried[1] and type(carried[1])(*(part[one] for part in carried[1])),
            )
            y, state = model.forward_with_state(alone, before)
            close(running[one, :length], y)
            close(next_answer[one], model.step(torch.zeros(1, 2, dtype=x.dtype), state)[0])


@EACH
def test_packed_rows_are_the_sequences_alone(config: ModelConfig) -> None:
    model, x = made(config), raw(2, 20, 2)
    starts = torch.zeros(2, 20, dtype=torch.bool)
    starts[0, 6] = starts[0, 7] = starts[1, 12] = True
    with torch.no_grad():
        running, _ = model.forward_with_state(x, model.initial_state(2), starts=starts)
        whole = model(x, starts=starts)
        for row, borders in ((0, [0, 6, 7, 20]), (1, [0, 12, 20])):
            for begin, end in pairwise(borders):
                part = x[row : row + 1, begin:end]
                alone, _ = model.forward_with_state(part, model.initial_state(1))
                close(running[row : row + 1, begin:end], alone)
            close(whole[row : row + 1, begin:] if config.kind in EVERY_STEP else whole[row : row + 1], model(part))


@EACH
def test_the_rate_reaches_every_layer(config: ModelConfig) -> None:
    model, x = made(config), raw(2, 12, 2)
    slow = copy.deepcopy(model)
    with torch.no_grad():
        for residual in slow.backbone.layers:
            residual.layer.log_dt += math.log(2.0)
        close(model(x, rate=2.0), slow(x))
        assert not torch.allclose(model(x), slow(x), rtol=1e-4)
        running, _ = model.forward_with_state(x, model.initial_state(2), rate=2.0)
        close(running, slow.forward_with_state(x, slow.initial_state(2))[0])
        expected = slow.step(x[:, 0], slow.initial_state(2))[0]
        close(model.step(x[:, 0], model.initial_state(2), rate=2.0)[0], expected)
        close(model.step(x[:, 0], model.initial_state(2), constants=model.constants(rate=2.0))[0], expected)


@EACH
def test_the_law_of_running_decisions(config: ModelConfig) -> None:
    if config.kind not in EVERY_STEP:
        assert views.check_running_decision(made(config)).difference < 1e-10


def test_a_row_of_nothing_is_decided_by_the_bias() -> None:
    model = made(CAUSAL[0])
    y = model(torch.full((2, 4, 2), float("nan"), dtype=torch.float64), lengths=torch.tensor([0, 0]))
    assert torch.equal(y, model.head.bias.expand(2, 3))
    assert torch.equal(model(torch.zeros(2, 0, 2, dtype=torch.float64)), y)


def test_the_model_takes_raw_input() -> None:
    model, x = made(CAUSAL[0]), raw(2, 30, 2)
    plain = made(ClassifierConfig(d_input=2, classes=("a", "b", "c"), backbone=D))
    missing = plain.load_state_dict(model.state_dict())
    assert not missing.missing_keys
    shift, scale = (torch.tensor(part, dtype=x.dtype) for part in (STATISTICS.shift, STATISTICS.scale))
    close(model(x), plain((x - shift) / scale))
    assert model.encoder.shift.tolist() == list(STATISTICS.shift)
    assert not any("shift" in name or "scale" in name for name in model.state_dict())


def test_raw_input_of_another_type_is_taken() -> None:
    model, x = made(CAUSAL[0], torch.float32), raw(1, 9, 2)
    assert model(x).dtype is torch.float32
    close(model(x), model(x.float()), 1e-6)
    assert model.step(x[:, 0], model.initial_state(1))[0].dtype is torch.float32


@pytest.mark.parametrize("config", CAUSAL[3:], ids=lambda config: config.kind)
def test_outputs_are_in_the_units_of_the_targets(config: RegressorConfig | StepRegressorConfig) -> None:
    model, x = made(config), raw(2, 9, 2)
    plain = made(dataclasses.replace(config, target_statistics=None))
    plain.load_state_dict(model.state_dict())
    shift, scale = (torch.tensor(part, dtype=x.dtype) for part in (TARGETS.shift, TARGETS.scale))
    close(model(x), plain(x) * scale + shift)


@pytest.mark.parametrize("config", [*CAUSAL, BOTH_WAYS], ids=lambda config: config.kind)
def test_nan_in_the_padding_reaches_no_gradient(config: ModelConfig) -> None:
    model = build(config).double()
    x = raw(3, 10, 2)
    lengths = torch.tensor([10, 0, 4])
    x[torch.arange(10) >= lengths[:, None]] = float("nan")
    x.requires_grad_()
    y = model(x, lengths=lengths)
    valid = y[torch.arange(10) < lengths[:, None]] if config.kind in EVERY_STEP else y
    valid.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
    assert x.grad is not None
    assert float(x.grad[torch.arange(10) >= lengths[:, None]].abs().max()) == 0.0


def test_the_bidirectional_classifier_reads_both_ways_and_respects_padding() -> None:
    model, x = made(BOTH_WAYS), raw(2, 12, 2)
    padded = torch.cat([x, torch.full((2, 5, 2), float("nan"), dtype=x.dtype)], 1)
    close(model(padded, lengths=torch.tensor([12, 12])), model(x))
    assert not isinstance(model, CausalLayer)
    starts = torch.zeros(2, 12, dtype=torch.bool)
    starts[:, 5] = True
    close(model(x, starts=starts), model(x[:, 5:]))
    layer = model.backbone.layers[0]
    h = torch.randn(1, 6, 4, dtype=x.dtype, requires_grad=True)
    layer(h)[0, 0].sum().backward()
    assert h.grad is not None
    assert float(h.grad[0, -1].abs().max()) > 0
    assert not torch.allclose(model(x, rate=2.0), model(x))


@EACH
def test_wrong_arguments_are_refused_with_a_sentence(config: ModelConfig) -> None:
    model = made(config)
    x = raw(2, 5, 2)
    for view in (model, lambda x, **given: model.forward_with_state(x, model.initial_state(2), **given)):
        with pytest.raises(InputError, match=r"`x` has shape \(2, 5, 3\), but \(batch, length, 2\) is needed"):
            view(raw(2, 5, 3))
        with pytest.raises(InputError, match="`lengths` must hold values between 0 and the sequence length 5; row 1"):
            view(x, lengths=torch.tensor([1, 6]))
        with pytest.raises(InputError, match=r"`starts` is torch\.int64 of shape"):
            view(x, starts=torch.zeros(2, 5).long())
        with pytest.raises(InputError, match=r"`rate` is -1\.0, but a positive number"):
            view(x, rate=-1.0)
    with pytest.raises(InputError, match=r"`x_t` has shape \(2, 5, 2\), but \(batch, 2\) is needed"):
        model.step(x, model.initial_state(2))


class Counted(nn.Module):
    """A head that counts the rows it is given."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head
        self.rows = 0

    def forward(self, h: Tensor) -> Tensor:
        self.rows += h[..., 0].numel()
        return self.head(h)


def test_forward_computes_no_running_answers() -> None:
    model = made(CAUSAL[0])
    model.head = Counted(model.head)
    model(raw(3, 50, 2))
    assert model.head.rows == 3


def test_dropout_is_only_of_training() -> None:
    config = ClassifierConfig(
        d_input=2, classes=("a", "b"), backbone=BackboneConfig(8, 2, S4DConfig(d_state=4), dropout=0.5)
    )
    model, x = build(config).double(), raw(2, 20, 2)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_the_backbone_is_the_stack_of_its_layers() -> None:
    backbone, x = Backbone(D).double().eval(), torch.randn(2, 9, 4, dtype=torch.float64)
    assert all(isinstance(layer, Residual) for layer in backbone.layers)
    expected = x
    for layer in backbone.layers:
        expected = expected + layer.layer(layer.norm(expected))
    close(backbone(x), backbone.norm(expected))
    state = backbone.initial_state(2)
    assert len(state) == len(backbone.constants().layers) == 2
    with pytest.raises(ValueError, match="zip"):
        backbone.forward_with_state(x, state[:1])


def test_causal_models_are_abstract_or_final() -> None:
    assert inspect.isabstract(CausalModel)
    assert len(CausalModel.__subclasses__()) == 4
    assert not any(cls.__subclasses__() for cls in CausalModel.__subclasses__())
    assert not issubclass(BidirectionalClassifier, CausalLayer)
