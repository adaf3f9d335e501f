"""Every law passes on what obeys it and catches the layer that breaks it."""

import copy
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import broken, toys
from torch import nn

from longstate._checks import InputError
from longstate.diagnostics import laws as checks

BROKEN = [
    (broken.StepForgetsTail, checks.check_parallel_equals_stepped, "parallel = stepped: .* differ"),
    (broken.StateBeforeLast, checks.check_parallel_equals_stepped, "outputs that follow the states after 24 elements"),
    (broken.StepWithoutConstantsDiffers, checks.check_parallel_equals_stepped, "differ"),
    (broken.ForwardDiffers, checks.check_parallel_equals_stepped, "`forward` and `forward_with_state` differ"),
    (broken.TailShorterThanChunk, checks.check_whole_equals_chunked, r"whole = chunked: outputs cut into 1\+23"),
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
    (broken.DecidesInPadding, checks.check_running_decision, "they differ on padded rows"),
]
OBEYING = {
    broken.Whitened: toys.Whitened,
    broken.Decider: toys.Decider,
    broken.MovingAverage: toys.MovingAverage,
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
