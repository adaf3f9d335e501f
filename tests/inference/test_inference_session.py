"""Sessions: the whole sequence sample by sample, for ever, and from a file again."""

import copy
import dataclasses
import gc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.utils import _pytree

from longstate import S4D, InputError, Session
from longstate.inference import fingerprint
from longstate.models import (
    Backbone,
    BackboneConfig,
    BidirectionalClassifierConfig,
    ClassifierConfig,
    InputStatistics,
    ModelConfig,
    RegressorConfig,
    S4Config,
    S4DConfig,
    StepRegressorConfig,
    TaggerConfig,
    build,
    load,
    save,
)

D = BackboneConfig(d_model=4, n_layers=2, layer=S4DConfig(d_state=4))
CONFIGS = [
    ClassifierConfig(d_input=2, classes=("a", "b"), backbone=D, statistics=InputStatistics((1.0, 2.0), (3.0, 4.0))),
    ClassifierConfig(d_input=2, classes=("a", "b"), backbone=D, pooling="last"),
    TaggerConfig(d_input=2, classes=("a", "b"), backbone=BackboneConfig(4, 2, S4Config(d_state=4), "batch")),
    RegressorConfig(d_input=2, targets=("a", "b"), backbone=D),
    StepRegressorConfig(d_input=2, targets=("a", "b"), backbone=D),
]
EACH = pytest.mark.parametrize("config", CONFIGS, ids=["mean", "last", "tagger", "regressor", "step_regressor"])


def made(config: ModelConfig = CONFIGS[0]) -> Any:
    return build(config).double().eval()


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@EACH
@pytest.mark.parametrize("rate", [None, 2.0])
def test_pushes_and_chunks_are_the_whole_sequence(config: ModelConfig, rate: float | None) -> None:
    model, x = made(config), draw(3, 30, 2)
    expected, _ = model.forward_with_state(x, model.initial_state(3), rate=rate)
    session = Session(model, batch_size=3, rate=rate)
    parts = [session.push(x[:, t])[:, None] for t in range(7)]
    parts.append(session.push_chunk(x[:, 7:7]))
    parts.append(session.push_chunk(x[:, 7:20]))
    parts += [session.push(x[:, t])[:, None] for t in range(20, 30)]
    torch.testing.assert_close(torch.cat(parts, 1), expected, rtol=0, atol=1e-12)
    assert not any(part.requires_grad for part in parts)
    session.reset()
    torch.testing.assert_close(session.push(x[:, 0]), expected[:, 0], rtol=0, atol=1e-12)


@EACH
def test_time_stamped_events_are_the_whole_sequence(config: ModelConfig) -> None:
    if isinstance(config.backbone.layer, S4Config):
        config = dataclasses.replace(config, backbone=D)
    model, x = made(config), draw(3, 30, 2)
    rate = 2 * torch.rand(3, 30, dtype=torch.float64)
    rate[:, 4::7] = 0.0  # two events at one instant
    expected, _ = model.forward_with_state(x, model.initial_state(3), rate=rate)
    session = Session(model, batch_size=3)
    parts = [session.push(x[:, t], rate=rate[:, t])[:, None] for t in range(7)]
    parts.append(session.push_chunk(x[:, 7:7], rate=rate[:, 7:7]))
    parts.append(session.push_chunk(x[:, 7:20], rate=rate[:, 7:20]))
    parts += [session.push(x[:, t], rate=rate[:, t].float())[:, None] for t in range(20, 30)]
    torch.testing.assert_close(torch.cat(parts[:-10], 1), expected[:, :20], rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.cat(parts[-10:], 1), expected[:, 20:], rtol=0, atol=1e-6)


def test_an_interval_may_be_a_number() -> None:
    model, x = made(), draw(2, 9, 2)
    one, other = (Session(model, batch_size=2) for _ in range(2))
    for t in range(4):
        found = one.push(x[:, t], rate=0.3)
        assert torch.equal(found, other.push(x[:, t], rate=torch.full((2,), 0.3, dtype=torch.float64)))
    found = one.push_chunk(x[:, 4:], rate=2)
    assert torch.equal(found, other.push_chunk(x[:, 4:], rate=torch.full((2, 5), 2.0, dtype=torch.float64)))
    torch.testing.assert_close(one.push(x[:, 0]), other.push(x[:, 0], rate=1.0), rtol=0, atol=1e-12)


def test_intervals_of_streams_of_different_lengths() -> None:
    model, x = made(), draw(2, 9, 2)
    rate = torch.rand(2, 9, dtype=torch.float64)
    session = Session(model, batch_size=2)
    padded, padded_rate = x.clone(), rate.clone()
    padded[1, 4:] = padded_rate[1, 4:] = torch.nan
    session.push_chunk(padded, lengths=torch.tensor([9, 4]), rate=padded_rate)
    after = session.push(x[:, 0], rate=torch.tensor([0.5, 2.0]))
    for row, length, last in ((0, 9, 0.5), (1, 4, 2.0)):
        alone = Session(model)
        alone.push_chunk(x[row : row + 1, :length], rate=rate[row : row + 1, :length])
        torch.testing.assert_close(alone.push(x[row : row + 1, 0], rate=last), after[row : row + 1], rtol=0, atol=1e-12)


def test_intervals_that_cannot_be_used_are_refused_with_a_sentence() -> None:
    session = Session(made(), batch_size=2)
    x = draw(2, 3, 2)
    before = copy.deepcopy(session._state)
    with pytest.raises(
        InputError, match=r"`rate` is torch.float32 of shape \(3,\), but floating numbers of shape \(2,\)"
    ):
        session.push(x[:, 0], rate=torch.ones(3))
    with pytest.raises(InputError, match=r"`rate` is torch.float32 of shape \(2,\), but .* shape \(2, 3\) are needed"):
        session.push_chunk(x, rate=torch.ones(2))
    with pytest.raises(
        InputError, match=r"`rate` holds -0.5, but an interval is at least 0; sort the elements by time"
    ):
        session.push(x[:, 0], rate=-0.5)
    with pytest.raises(InputError, match="`rate` holds inf, but an interval is finite; sort the elements by time"):
        session.push_chunk(x, rate=float("inf"))
    with pytest.raises(InputError, match=r"this session was made with rate=2.0, and one of the two is needed; make it"):
        Session(made(), rate=2.0).push(x[:1, 0], rate=1.0)
    backbone = BackboneConfig(4, 2, S4Config(d_state=4))
    fixed = Session(made(ClassifierConfig(d_input=2, classes=("a", "b"), backbone=backbone)))
    for push in (lambda: fixed.push(x[:1, 0], rate=1.0), lambda: fixed.push_chunk(x[:1], rate=1.0)):
        with pytest.raises(
            InputError, match=r"takes one rate for all of them \(.*S4 is time invariant.*\), and intervals"
        ):
            push()
    assert all(torch.equal(a, b) for a, b in zip(*map(_pytree.tree_leaves, (before, session._state)), strict=True))


def test_streams_of_different_lengths() -> None:
    model, x = made(), draw(2, 9, 2)
    session = Session(model, batch_size=2)
    padded = x.clone()
    padded[1, 4:] = float("nan")
    session.push_chunk(padded, lengths=torch.tensor([9, 4]))
    after = session.push(x[:, 0])
    for row, length in ((0, 9), (1, 4)):
        alone = Session(model)
        alone.push_chunk(x[row : row + 1, :length])
        torch.testing.assert_close(alone.push(x[row : row + 1, 0]), after[row : row + 1], rtol=0, atol=1e-12)


def test_constants_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = S4D.system
    monkeypatch.setattr(S4D, "system", lambda self, rate=1.0: calls.append(rate) or real(self, rate))
    session = Session(made(), rate=0.5)
    assert calls == [0.5, 0.5]
    for _ in range(5):
        session.push(draw(1, 2))
    assert calls == [0.5, 0.5]


def live_tensors() -> Counter[int]:
    """How many tensors of how many bytes there are: less `before`, what is new, whatever else went meanwhile."""
    gc.collect()
    return Counter(each.untyped_storage().nbytes() for each in gc.get_objects() if issubclass(type(each), Tensor))


@EACH
def test_memory_does_not_grow(config: ModelConfig) -> None:
    session = Session(made(config))
    x_t = draw(1, 2)
    for _ in range(3):
        session.push(x_t)
    before = live_tensors()
    for _ in range(200):
        session.push(x_t)
    assert not live_tensors() - before
    session.push_chunk(draw(1, 4000, 2))
    assert max(live_tensors() - before, default=0) < 4000 * 8, "a state keeps its chunk"
    session.push(x_t)
    assert not live_tensors() - before


def test_a_session_keeps_the_model_as_it_is() -> None:
    model = made()
    before = copy.deepcopy(model.state_dict())
    session = Session(model)
    x_t = draw(1, 2)
    kept = x_t.clone()
    session.push(x_t)
    session.push_chunk(x_t[:, None])
    assert torch.equal(x_t, kept)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@EACH
def test_a_saved_state_goes_on_where_it_was(config: ModelConfig, tmp_path: Path) -> None:
    model, x = made(config), draw(2, 20, 2)
    session = Session(model, batch_size=2)
    session.push_chunk(x[:, :12])
    session.save(tmp_path / "state")
    expected = session.push_chunk(x[:, 12:])
    save(model, tmp_path / "model")
    other = Session(load(tmp_path / "model"), batch_size=2)
    other.push_chunk(draw(2, 5, 2))
    other.restore(str(tmp_path / "state"))
    assert torch.equal(other.push_chunk(x[:, 12:]), expected)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["model", "state"]


def test_a_state_after_a_chunk_of_one_stream_is_saved(tmp_path: Path) -> None:
    model, x = made(), draw(1, 9, 2)
    session, other = Session(model), Session(model)
    session.push_chunk(x)
    session.save(tmp_path / "state")
    other.restore(tmp_path / "state")
    assert torch.equal(other.push(x[:, 0]), session.push(x[:, 0]))


def test_a_whole_layer_may_run_in_a_session(tmp_path: Path) -> None:
    for layer in (S4D(2, 4).double().eval(), Backbone(BackboneConfig(2, 2, S4DConfig(d_state=4))).double().eval()):
        x = draw(1, 9, 2)
        session = Session(layer)
        torch.testing.assert_close(session.push_chunk(x), layer(x).detach(), rtol=0, atol=1e-12)
        session.save(tmp_path / "state")
        other = Session(layer)
        other.restore(tmp_path / "state")
        assert torch.equal(other.push(x[:, 0]), session.push(x[:, 0]))


def test_fingerprints_tell_models_apart() -> None:
    model = made()
    assert fingerprint(model) == fingerprint(copy.deepcopy(model))
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.head.bias[0] += 1e-9
    relabelled = build(ClassifierConfig(d_input=2, classes=("a", "c"), backbone=D, statistics=CONFIGS[0].statistics))
    relabelled.double().load_state_dict(model.state_dict())
    different = [model, changed, relabelled, copy.deepcopy(model).float(), S4D(4), S4D(4)]
    assert len({fingerprint(each) for each in different}) == len(different)


def test_a_state_of_another_model_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(1)
    one, other = Session(made()), Session(made())
    one.push(draw(1, 2))
    one.save(tmp_path / "state")
    x_t = draw(1, 2)
    twin = copy.deepcopy(other)
    with pytest.raises(InputError, match="state` is the state of another model, but one of this model with these"):
        other.restore(tmp_path / "state")
    assert torch.equal(other.push(x_t), twin.push(x_t)), "a refused state changes nothing"


def test_a_state_of_another_number_of_streams_is_refused(tmp_path: Path) -> None:
    model = made()
    Session(model, batch_size=3).save(tmp_path / "state")
    with pytest.raises(InputError, match="state of 3 streams, but this session has 2; make it with batch_size=3"):
        Session(model, batch_size=2).restore(tmp_path / "state")


def test_files_that_hold_no_state_are_refused(tmp_path: Path) -> None:
    model = made()
    session = Session(model)
    with pytest.raises(InputError, match=r"nothing` could not be read \(No such file or directory\)"):
        session.restore(tmp_path / "nothing")
    torch.save({}, tmp_path / "pickle")
    with pytest.raises(InputError, match="pickle` holds a pickle, but a safetensors file is needed"):
        session.restore(tmp_path / "pickle")
    session.save(tmp_path / "state")
    (tmp_path / "cut").write_bytes((tmp_path / "state").read_bytes()[:-3])
    with pytest.raises(InputError, match="cut` is damaged, cut short or not a safetensors file"):
        session.restore(tmp_path / "cut")
    save(model, tmp_path / "model")
    with pytest.raises(InputError, match=r"model\.safetensors` holds no session, but the state of one is needed"):
        session.restore(tmp_path / "model" / "model.safetensors")
    metadata = {"format": "longstate session", "fingerprint": fingerprint(model)}
    safetensors.torch.save_file({"x": torch.zeros(1)}, tmp_path / "empty", metadata)
    with pytest.raises(InputError, match=r"empty` lacks .* has x besides, but exactly the tensors of this session's"):
        session.restore(tmp_path / "empty")


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"state` could not be written \(No such file or directory\)"):
        Session(made()).save(tmp_path / "nowhere" / "state")


def test_what_cannot_stream_is_refused() -> None:
    both_ways = build(BidirectionalClassifierConfig(d_input=2, classes=("a", "b"), backbone=D)).eval()
    with pytest.raises(InputError, match="`model` is a BidirectionalClassifier, which needs the whole sequence at"):
        Session(both_ways)
    with pytest.raises(InputError, match=r"`model` is in training mode.*call `model.eval\(\)` first"):
        Session(made().train())
    with pytest.raises(InputError, match="`batch_size` is 0, but a positive integer"):
        Session(made(), batch_size=0)
    with pytest.raises(InputError, match=r"`rate` is 0\.0, but a positive number"):
        Session(made(), rate=0.0)


def test_samples_of_a_wrong_shape_are_refused_with_a_sentence() -> None:
    session = Session(made())
    with pytest.raises(InputError, match=r"`x_t` has shape \(1, 3\), but \(batch, 2\) is needed"):
        session.push(draw(1, 3))
    with pytest.raises(InputError, match=r"`x_t` has shape \(2,\), but \(batch, 2\) is needed"):
        session.push(draw(2))
    with pytest.raises(InputError, match=r"`x` has shape \(1, 2\), but \(batch, length, 2\) is needed"):
        session.push_chunk(draw(1, 2))
    with pytest.raises(InputError, match="the input has 3 rows, but this session has 1 streams; make it with batch_si"):
        session.push(draw(3, 2))
    with pytest.raises(InputError, match="the input has 3 rows, but this session has 1 streams"):
        session.push_chunk(draw(3, 4, 2))
    with pytest.raises(InputError, match=r"`x_t` is torch\.int64, but a floating type is needed"):
        session.push(torch.zeros(1, 2).long())


def test_float32_models_take_samples_of_any_floating_type() -> None:
    model = build(CONFIGS[0]).eval()
    one, other = Session(model), Session(model)
    for _ in range(3):
        x_t = draw(1, 2)
        torch.testing.assert_close(one.push(x_t), other.push(x_t.float()))
    assert {leaf.dtype for leaf in _pytree.tree_leaves(one._state)} == {torch.float32, torch.int64}
