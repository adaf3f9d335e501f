"""Every law passes on what obeys it and catches the layer that breaks it."""

import copy
import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import catalogue
from laws import broken, toys
from longstate._checks import InputError
from longstate.diagnostics import laws as checks

SHORT = 13


def check_second_order(layer):
    return checks.check_substeps(layer.double(), order=2)


BROKEN = [
    (broken.StepForgetsTail, checks.check_parallel_equals_stepped, "parallel = stepped: .* differ"),
    (broken.StateBeforeLast, checks.check_parallel_equals_stepped, "outputs that follow the states after 24 elements"),
    (broken.StepWithoutConstantsDiffers, checks.check_parallel_equals_stepped, "differ"),
    (broken.ForwardDiffers, checks.check_parallel_equals_stepped, "`forward` and `forward_with_state` differ"),
    (broken.TailShorterThanChunk, checks.check_whole_equals_chunked, r"whole = chunked: outputs cut into [12]"),
    (broken.CarriesStateWrongly, checks.check_whole_equals_chunked, "whole = chunked: outputs cut into"),
    (broken.StateRunsThroughPadding, checks.check_padded_rows, "follow the final states of rows with padding of nan"),
    (broken.MasksByProduct, checks.check_padded_rows, "padding of nan differ by nan"),
    (broken.RoundsWithPadding, checks.check_padded_rows, "padding of (nan|10000.0) differ"),
    (broken.EmptyRowsForget, checks.check_padded_rows, "the final states of rows"),
    (broken.AveragesPadding, checks.check_padded_rows, "padded rows = rows alone: outputs of `forward`"),
    (broken.NotANumberForEmptyRows, checks.check_padded_rows, "outputs of `forward` .* are not finite"),
    (broken.Peeks, checks.check_causality, "causality: outputs of `forward_with_state` depend on later inputs"),
    (broken.Caches, checks.check_purity, "purity: `forward` sets attributes"),
    (broken.FillsADictionary, checks.check_purity, "purity: `forward` sets attributes"),
    (broken.RewritesParameter, checks.check_purity, "purity: `forward` writes to the layer"),
    (broken.WritesIntoState, checks.check_purity, "purity: `step` writes to its arguments"),
    (broken.WritesIntoInput, checks.check_purity, "purity: `forward` writes to its arguments"),
    (broken.IsRandom, checks.check_purity, "purity: `forward` called twice differs"),
    (broken.CountsPaddingInStatistics, checks.check_training_statistics, "padded and unpadded rows differ"),
    (broken.StatisticsOfPadding, checks.check_training_statistics, "depend on what the padding holds"),
    (broken.TrainsInForward, checks.check_training_statistics, "writes to parameters"),
    (broken.CentresTheBatch, checks.check_rows_do_not_interact, "outputs of rows in a batch and alone differ"),
    (broken.StepMixesRows, checks.check_rows_do_not_interact, "of a step differ"),
    (broken.DetachesState, checks.check_gradients, "derivatives of `forward_with_state` by"),
    (broken.WrongBackward, checks.check_gradients, "derivatives of `step` by `log_dt`"),
    (broken.NormalisesBeforeMasking, checks.check_gradients_of_rows, "padded rows by .* differ by nan"),
    (broken.NormalisesPadding, checks.check_gradients_of_rows, "`forward` of padded rows by .* differ by nan"),
    (broken.ReturnsFloat32, checks.check_dtype_and_device, "output of `forward` in torch.float64 is torch.float32"),
    (broken.StateFollowsInput, checks.check_dtype_and_device, "the state in torch.bfloat16 becomes"),
    (broken.OverflowsUnderAutocast, checks.check_dtype_and_device, "under bfloat16 autocast"),
    (broken.MadeOnOneDevice, checks.check_dtype_and_device, "moved to another device"),
    (broken.HidesATensor, checks.check_copies, "outputs after `load_state_dict` differ"),
    (broken.CannotBeCopied, checks.check_copies, "`copy.deepcopy` of the layer fails"),
    (broken.SharesItsParameters, checks.check_copies, "the layer changes with its copy"),
    (broken.BranchesOnValues, checks.check_export, "`forward` cannot be exported"),
    (broken.BranchesOnValues, checks.check_compile, "`forward` cannot be compiled"),
    (broken.StateWithoutName, checks.check_export, "cannot be exported"),
    (broken.DiffersWhenCompiled, checks.check_export, "its exported program differ"),
    (broken.DiffersWhenCompiled, checks.check_compile, "its compiled form differ"),
    (broken.IgnoresStarts, checks.check_packed_rows, "packed rows = sequences alone: outputs of `forward`"),
    (broken.TailCrossesBorders, checks.check_packed_rows, "packed rows = sequences alone: outputs of"),
    (broken.IncomingStateReachesAll, checks.check_packed_rows, "the final states of full rows"),
    (broken.RateOnlyInParallel, checks.check_rate, "rate=2.0: `forward_with_state` and `step` differ"),
    (broken.RateOneIsNotNone, checks.check_rate, "rate=1.0 and no rate differ"),
    (broken.IntervalAfterInsteadOfBefore, checks.check_irregular_rate, "`forward_with_state` and `step` differ"),
    (broken.TakesTheMeanInterval, checks.check_irregular_rate, "irregular rate: "),
    (
        broken.IntervalsStartAtZero,
        checks.check_irregular_rate,
        r"chunks of \[12, 12\] from the initial state",
    ),
    (broken.ReadsPaddedIntervals, checks.check_irregular_rate, "states of rows with padding of 10000.0"),
    (broken.SquaredIntervals, checks.check_irregular_rate, "a rate of twos and rate=2.0 differ"),
    (broken.PackedSequencesKeepTime, checks.check_irregular_rate, "irregular rate: outputs of `forward` of full rows"),
    (broken.DetachesIntervals, checks.check_gradients_of_rate, "derivatives of `forward` by `rate`"),
    (broken.MasksIntervalsTooLate, checks.check_gradients_of_rate, "with NaN and with numbers in the padding differ"),
    (broken.LinearLeak, checks.check_substeps, "one step and 2 sub-steps differ"),
    (broken.ChunksStepTwice, checks.check_substeps, "one step and a chunk of 2 sub-steps differ"),
    (broken.EulerForTrapezoid, check_second_order, "the order of convergence is 1"),
    (broken.DecidesInPadding, checks.check_running_decision, "they differ on padded rows"),
]
OBEYING = {
    broken.Whitened: toys.Whitened,
    broken.Decider: toys.Decider,
    broken.MovingAverage: toys.MovingAverage,
    broken.Leak: toys.Leak,
    broken.TrapezoidLeak: toys.TrapezoidLeak,
}


def build(cls):
    return cls(3, 2) if issubclass(cls, toys.Decider) else cls(3)


@pytest.mark.parametrize(("cls", "check", "text"), BROKEN, ids=lambda value: getattr(value, "__name__", None))
def test_law_catches_the_layer_that_breaks_it(cls, check, text):
    base = OBEYING[cls.__bases__[0]]
    assert check(build(base)).difference <= check(build(base)).tolerance
    with pytest.raises(checks.LawViolation, match=text) as caught:
        check(build(cls))
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert re.search(r"(at most \S+ is allowed|the tolerance of \S+ does not cover)\.$", sentence)


@pytest.mark.parametrize("entry", catalogue.ALL, ids=str)
def test_catalogue_obeys_the_laws(entry):
    report = checks.check_layer(entry.build(), make_input=entry.make_input, length=SHORT, programs=False)
    assert all(found.difference <= found.tolerance for found in report)


@pytest.mark.parametrize("entry", catalogue.COMBINATIONS, ids=str)
def test_options_combine(entry):
    layer = entry.build().double()
    checks.check_parallel_equals_stepped(layer, length=SHORT)
    checks.check_whole_equals_chunked(layer, length=SHORT, chunks=[[1, 12], [7, 6], [2, 1, 5, 1, 4]])
    checks.check_padded_rows(layer, length=SHORT)
    checks.check_packed_rows(layer, length=SHORT)
    checks.check_gradients_of_rows(layer)
    checks.check_rate(layer.float(), length=SHORT)


@pytest.mark.parametrize("entry", [entry for entry in catalogue.ALL if entry.programs], ids=str)
def test_catalogue_becomes_programs(entry):
    layer = entry.build()
    checks.check_export(layer, make_input=entry.make_input)
    checks.check_compile(layer, make_input=entry.make_input)


@pytest.mark.slow
@pytest.mark.parametrize("entry", catalogue.CAUSAL_LAYERS[:2], ids=str)
def test_catalogue_compiles_with_inductor(entry):
    checks.check_compile(entry.build(), make_input=entry.make_input, backend="inductor")


@pytest.mark.parametrize("entry", catalogue.CAUSAL_LAYERS[:2], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_views_agree_on_longer_sequences(entry, dtype):
    layer = entry.build().to(dtype)
    checks.check_parallel_equals_stepped(layer, length=257)
    checks.check_whole_equals_chunked(layer, length=257, chunks=[[1, 256], [128, 129], [100, 3, 154], [256, 1]])


@given(
    chunks=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    entry=st.sampled_from([*catalogue.CAUSAL_LAYERS, *catalogue.COMBINATIONS]),
)
def test_any_cut(chunks, entry):
    layer = entry.build().double()
    checks.check_whole_equals_chunked(layer, make_input=entry.make_input, length=sum(chunks), chunks=[chunks])


@given(data=st.data(), length=st.integers(1, 20), entry=st.sampled_from([*catalogue.ALL, *catalogue.COMBINATIONS]))
def test_any_padding_and_packing(data, length, entry):
    batch = data.draw(st.integers(1, 4))
    lengths = data.draw(st.lists(st.integers(0, length), min_size=batch, max_size=batch))
    row = st.lists(st.booleans(), min_size=length, max_size=length)
    starts = torch.tensor(data.draw(st.lists(row, min_size=batch, max_size=batch)))
    layer = entry.build().double()
    checks.check_padded_rows(layer, make_input=entry.make_input, length=length, lengths=lengths)
    checks.check_packed_rows(layer, make_input=entry.make_input, length=length, starts=starts, lengths=lengths)


@pytest.mark.parametrize("cls", OBEYING.values())
def test_check_layer_reports_and_leaves_the_layer_alone(cls):
    toy = build(cls)
    before, generator = copy.deepcopy(toy), torch.get_rng_state()
    toy.train()
    report = checks.check_layer(toy, length=SHORT)
    assert toy.training
    assert all(module.training for module in toy.modules())
    assert torch.equal(generator, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(toy.parameters(), before.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(toy.buffers(), before.buffers(), strict=True))
    assert all(p.grad is None for p in toy.parameters())
    laws_found = {found.law for found in report}
    expected = {"padded rows = rows alone", "rows do not interact", "purity", "training statistics", "gradients"}
    expected |= {"gradients of padded and packed rows", "dtype and device", "copies", "torch.export", "torch.compile"}
    if cls is not toys.Whitened:
        expected |= {"parallel = stepped", "whole = chunked", "packed rows = sequences alone", "rate=2.0", "causality"}
    if issubclass(cls, toys.Leak | toys.Whitened):  # one takes intervals, the other has no use for them
        expected |= {"irregular rate", "gradients of irregular rate"}
    if cls is toys.Decider:
        expected |= {"forward = last running decision"}
    assert laws_found == expected
    assert {found.tolerance for found in report if found.law == "rows do not interact"} == {2e-5, 1e-10}


def test_check_layer_measures_float64_layers_once():
    report = checks.check_layer(toys.MovingAverage(3).double(), length=SHORT, programs=False)
    assert [found.tolerance for found in report if found.law == "parallel = stepped"] == [1e-10]


def test_check_layer_refuses_half_precision():
    with pytest.raises(InputError, match=r"parameters are torch.bfloat16, but .* call `layer.float\(\)` first"):
        checks.check_padded_rows(toys.MovingAverage(3).bfloat16())


def test_check_layer_raises_what_its_laws_raise():
    with pytest.raises(checks.LawViolation, match="packed rows = sequences alone"):
        checks.check_layer(broken.IgnoresStarts(3), length=SHORT, programs=False)


def test_relative_difference():
    one = torch.ones(3)
    assert checks.relative_difference([(one, one)]) == 0.0
    assert checks.relative_difference([(one, one), (torch.zeros(2), torch.full((2,), 4.0))]) == 1.0
    assert checks.relative_difference([(1e-3 * one, torch.zeros(3))]) == pytest.approx(1e-3)
    assert checks.relative_difference([(one, torch.ones(4))]) == float("inf")
    assert math.isnan(checks.relative_difference([(one * float("nan"), one)]))
    assert math.isnan(checks.relative_difference([(one, one * float("nan"))]))
    assert math.isnan(checks.relative_difference([(one * float("inf"), one * float("inf"))]))
