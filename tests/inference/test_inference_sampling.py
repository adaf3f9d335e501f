"""The next token: every rule against its definition, token by token."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longstate._checks import InputError
from longstate.inference import Sampling, choose
from longstate.inference.sampling import draw, keep_min_p, keep_top_k, keep_top_p, penalise_repetition

LOGITS = st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=12)


def softmax(logits: list[float]) -> list[float]:
    weights = [math.exp(value - max(logits)) for value in logits]
    return [weight / sum(weights) for weight in weights]


def kept(logits: torch.Tensor) -> list[int]:
    return torch.where(logits[0] > -torch.inf)[0].tolist()


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@given(logits=LOGITS, k=st.integers(1, 15))
def test_top_k_keeps_the_largest_and_their_equals(logits: list[float], k: int) -> None:
    least = sorted(logits, reverse=True)[min(k, len(logits)) - 1]
    found = keep_top_k(torch.tensor([logits]), k)
    assert kept(found) == [token for token, value in enumerate(logits) if value >= least]
    assert found[0][kept(found)].tolist() == [logits[token] for token in kept(found)]


@given(logits=LOGITS, p=st.floats(0.01, 1.0))
def test_top_p_keeps_the_fewest_that_reach_it(logits: list[float], p: float) -> None:
    probabilities, total, expected = softmax(logits), 0.0, []
    for token in sorted(range(len(logits)), key=lambda token: -logits[token]):
        if abs(total - p) < 1e-9:
            return  # on the border rounding decides
        if total < p:
            expected.append(token)
        total += probabilities[token]
    assert kept(keep_top_p(torch.tensor([logits]), p)) == sorted(expected)


@given(logits=LOGITS, p=st.floats(0.01, 1.0))
def test_min_p_keeps_what_is_probable_enough_beside_the_most_probable(logits: list[float], p: float) -> None:
    ratios = [math.exp(value - max(logits)) for value in logits]
    if any(abs(ratio - p) < 1e-6 for ratio in ratios) and p != 1.0:
        return
    assert kept(keep_min_p(torch.tensor([logits]), p)) == [t for t, ratio in enumerate(ratios) if ratio >= p]


def test_the_penalty_makes_what_was_there_less_probable() -> None:
    logits, seen = torch.tensor([[2.0, -2.0, 2.0, -2.0, 0.0]]), torch.tensor([[True, True, False, False, True]])
    assert penalise_repetition(logits, seen, 2.0).tolist() == [[1.0, -4.0, 2.0, -2.0, 0.0]]
    assert torch.equal(penalise_repetition(logits, seen, 1.0), logits)


def test_draws_have_the_probabilities_of_softmax() -> None:
    logits = torch.tensor([[0.0, 1.0, -torch.inf, 2.0, -1.0]]).repeat(1, 1)
    (generator,) = generators(3)
    counts = np.bincount([int(draw(logits, [generator])) for _ in range(4000)], minlength=5)
    expected = np.array(softmax([0.0, 1.0, -1e9, 2.0, -1.0]))
    assert counts[2] == 0
    assert np.abs(counts / 4000 - expected).max() < 4 * np.sqrt(0.25 / 4000)
    deviations = (counts - 4000 * expected)[[0, 1, 3, 4]] ** 2 / (4000 * expected[[0, 1, 3, 4]])
    assert deviations.sum() < 16.3  # chi-squared of three degrees, one in a thousand


def test_a_draw_at_the_edge_is_a_token_that_can_come(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf]])
    for uniform in (0.0, 1.0 - 2**-53):
        monkeypatch.setattr(
            torch, "rand", lambda *a, uniform=uniform, **k: torch.tensor([uniform], dtype=torch.float64)
        )
        assert draw(logits, generators(0)).tolist() == [1]


def test_a_row_draws_the_same_alone_and_among_others() -> None:
    logits = torch.randn(4, 30)
    together = draw(logits, generators(5, 6, 7, 8))
    alone = [int(draw(logits[row : row + 1], generators(5 + row))) for row in range(4)]
    assert together.tolist() == alone
    assert draw(logits, generators(5, 6, 7, 8)).tolist() == alone
    drawn = {tuple(draw(torch.zeros(2, 1000), generators(seed, seed + 1)).tolist()) for seed in range(9)}
    assert len(drawn) == 9


def test_the_rules_come_one_after_the_other() -> None:
    logits, seen = torch.randn(1, 20), torch.rand(1, 20) < 0.5
    sampling = Sampling(temperature=0.7, top_k=9, top_p=0.8, min_p=0.1, repetition_penalty=1.3)
    by_hand = penalise_repetition(logits, seen, 1.3) / 0.7
    by_hand = keep_min_p(keep_top_p(keep_top_k(by_hand, 9), 0.8), 0.1)
    assert 1 < len(kept(by_hand)) < 9
    for seed in range(30):
        assert torch.equal(choose(logits, sampling, seen, generators(seed)), draw(by_hand, generators(seed)))


def test_the_temperature_moves_between_the_best_and_all() -> None:
    logits, best = torch.tensor([[0.0, 1.0, 0.5]]), 1
    cold, hot = (
        [int(choose(logits, Sampling(temperature=t), None, generators(seed))) for seed in range(300)]
        for t in (0.02, 50.0)
    )
    assert set(cold) == {best}
    assert min(np.bincount(hot, minlength=3)) > 70


def test_greedy_takes_the_most_probable_after_the_penalty() -> None:
    logits = torch.tensor([[3.0, 2.9, 0.0], [0.0, 1.0, 5.0]])
    assert choose(logits, Sampling(greedy=True), None, []).tolist() == [0, 2]
    seen = torch.tensor([[True, False, False], [False, False, True]])
    assert choose(logits, Sampling(greedy=True, repetition_penalty=2.0), seen, []).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"temperature": 0.0}, r"`temperature` is 0\.0, but a positive number is needed; for the most probable token"),
        ({"temperature": math.nan}, "`temperature` is nan"),
        ({"temperature": math.inf}, "`temperature` is inf"),
        ({"top_k": 0}, "`top_k` is 0, but a positive integer is needed"),
        ({"top_p": 0.0}, r"`top_p` is 0\.0, but a number above 0 and at most 1 is needed; leave it out"),
        ({"top_p": 1.1}, r"`top_p` is 1\.1, but"),
        ({"min_p": -0.1}, r"`min_p` is -0\.1, but"),
        ({"repetition_penalty": 0.0}, r"`repetition_penalty` is 0\.0, but a positive number is needed; 1\.0 changes"),
    ],
)
def test_numbers_out_of_their_range_are_refused(options: dict, text: str) -> None:
    with pytest.raises(InputError, match=text):
        Sampling(**options)
