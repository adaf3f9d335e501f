"""HippoMemory: what it remembers is the best there is, or as near to it as theory says; formulas and recordings."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial import Legendre
from scipy import linalg
from torch.testing import assert_close

from longstate import HippoMemory, InputError, data, theory
from longstate.layers.hippo_memory import HippoState

LENGTH = 4000
Signal = Callable[[np.ndarray], np.ndarray]


def sampled(signal: Signal, length: int = LENGTH) -> torch.Tensor:
    """A signal on [0, 1] in the middles of `length` steps, (1, length, 1)."""
    return torch.tensor(signal((np.arange(length) + 0.5) / length)).reshape(1, -1, 1)


def remembered(u: torch.Tensor, order: int, **options: object) -> tuple[HippoMemory, HippoState]:
    """A memory after all of u (batch, length, channels), in the type of u."""
    memory = HippoMemory(u.shape[-1], order, **options).to(u.dtype)
    return memory, memory.forward_with_state(u, memory.initial_state(len(u)))[1]


def projection(u: torch.Tensor, order: int) -> np.ndarray:
    """Coefficients of held values (length,) in orthonormal Legendre polynomials, by numpy."""
    edges = np.linspace(0, 1, len(u) + 1)
    integrals = [Legendre.basis(n, domain=[0, 1]).integ()(edges) for n in range(order)]
    return np.array([math.sqrt(2 * n + 1) * (u.numpy() * np.diff(P)).sum() for n, P in enumerate(integrals)])


def best_error(u: torch.Tensor, order: int) -> float:
    """Root of the mean square distance of values (length,) from the best polynomial."""
    place = (np.arange(len(u)) + 0.5) / len(u)
    values = Legendre.fit(place, u.numpy(), order - 1, domain=[0, 1])(place)
    return float(np.sqrt(np.mean((values - u.numpy()) ** 2)))


def error(u: torch.Tensor, order: int, **options: object) -> float:
    """Root of the mean square distance of a signal (1, length, 1) from what a memory says, over its window."""
    memory, state = remembered(u, order, **options)
    past = int(memory.window or u.shape[1])
    found = memory.reconstruct(state, torch.arange(past)).flip(1)
    return float((found - u[:, -past:]).square().mean().sqrt())


# All of the past


@given(length=st.integers(1, 300), order=st.sampled_from([1, 8, 64]))
def test_coefficients_are_the_projection(length: int, order: int) -> None:
    u = torch.randn(1, length, 2, dtype=torch.float64)
    _, state = remembered(u, order)
    for channel in range(2):
        expected = projection(u[0, :, channel], order)
        assert_close(state.x[0, channel].numpy(), expected, rtol=0, atol=1e-12 * u.abs().max().item())


def test_a_polynomial_is_held_to_the_second_order_of_the_step() -> None:
    """Of three coefficients a parabola needs no more; what is left is that it was held."""
    parabola = lambda t: 1 - 3 * t + 2 * t**2  # noqa: E731
    errors = [error(sampled(parabola, length), 3) for length in (100, 200)]
    assert errors[0] < 1e-4
    assert errors[1] < errors[0] / 3.5


@pytest.mark.parametrize(
    ("signal", "orders", "ratio"),
    [
        # 1/(x - a) on [-1, 1] is analytic up to the pole: the error falls by a + √(a² - 1) = 2 an order.
        (lambda t: 1 / (2 * t - 1 - 1.25), (4, 8, 12), 2.0**4),
        # A kink leaves N^(-3/2), a jump N^(-1/2): doubling the order divides by 2^1.5 and 2^0.5.
        (lambda t: np.abs(t - 1 / np.pi), (8, 16, 32), 2**1.5),
        (lambda t: np.where(t > 1 / np.pi, 1.0, 0.0), (8, 16, 32), 2**0.5),
    ],
    ids=["analytic", "kink", "jump"],
)
def test_error_falls_as_theory_says(signal: Signal, orders: tuple[int, ...], ratio: float) -> None:
    errors = [error(sampled(signal), order) for order in orders]
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(ratio, rel=0.15)


def test_scale_invariance() -> None:
    """Every element three times: a signal as slow again, and the same coefficients."""
    u = torch.randn(1, 70, 2, dtype=torch.float64)
    slow = HippoMemory(2, 16).double()(u.repeat_interleave(3, dim=1))
    assert_close(slow[:, 2::3], HippoMemory(2, 16).double()(u), rtol=0, atol=1e-13)


@pytest.mark.parametrize("rule", ["zoh", "bilinear", "backward_euler", "euler"])
def test_the_authors_program(rule: str) -> None:
    """HiPPO_LegS of hippo-code: A/t with t = 1, 2, ..., and for zoh ln(t+1) - ln(t), which is a 0 in front."""
    order, u = 6, torch.randn(40, dtype=torch.float64)
    A, B = (part.numpy() for part in theory.hippo("legs", order))
    eye, c, expected = np.eye(order), np.zeros(order), []
    for t in range(1, 41):
        if rule == "zoh":
            A_t = linalg.expm(A * (math.log(t + 1) - math.log(t)))
            B_t = linalg.solve_triangular(A, A_t @ B - B, lower=True)
        else:
            implicit = {"euler": 0.0, "bilinear": 0.5, "backward_euler": 1.0}[rule]
            A_t = np.linalg.solve(eye - implicit * A / t, eye + (1 - implicit) * A / t)
            B_t = np.linalg.solve(eye - implicit * A / t, B / t)
        c = A_t @ c + B_t * u[t - 1].item()
        expected.append(c)
    given = torch.cat([torch.zeros(1, dtype=torch.float64), u]) if rule == "zoh" else u
    found = HippoMemory(1, order, rule=rule).double()(given.reshape(1, -1, 1))[0, -40:].numpy()
    np.testing.assert_allclose(found, np.stack(expected), rtol=0, atol=1e-12 * np.abs(expected).max())


def test_rules_come_near_zoh_as_the_past_grows() -> None:
    u = sampled(lambda t: np.cos(6 * t))
    exact = remembered(u, 8)[1].x
    for rule, tolerance in (("bilinear", 2e-3), ("backward_euler", 5e-3), ("euler", 5e-3)):
        assert (remembered(u, 8, rule=rule)[1].x - exact).abs().max() < tolerance


def test_a_long_life_in_float32() -> None:
    """After 1e8 elements one more moves a coefficient by 1e-8: a float32 state would stand still."""
    memory = HippoMemory(1, 4)
    before = HippoState(torch.zeros(1, 1, 4, dtype=torch.float64), torch.tensor([10**8]))
    state, constants = before, memory.constants()
    for _ in range(300):
        _, state = memory.step(torch.ones(1, 1), state, constants=constants)
    _, chunk = memory.forward_with_state(torch.ones(1, 300, 1), before)
    assert state.steps.tolist() == [100_000_300]
    assert_close(state.x[0, 0] * 1e8 / 300, theory.hippo("legs", 4).B, rtol=1e-4, atol=0)
    assert_close(state.x, chunk.x, rtol=1e-6, atol=0)


# Windows


@pytest.mark.parametrize("measure", ["legt", "lmu"])
def test_a_smooth_window(measure: str) -> None:
    """Not the projection but near it: the far end is guessed from the coefficients themselves."""
    u = sampled(lambda t: np.cos(2 * np.pi * (3 * t + t * t)) + 0.3)
    errors = [error(u, order, measure=measure, window=2000) for order in (8, 12, 16)]
    best = [best_error(u[0, -2000:, 0], order) for order in (8, 12, 16)]
    for found, least in zip(errors, best, strict=True):
        assert least < found < 4 * least
    assert errors[2] < errors[0] / 1000


@pytest.mark.parametrize(("measure", "window"), [("fourier", 2000), ("fourier2", 2000)])
def test_a_periodic_window(measure: str, window: int) -> None:
    """What repeats with the window is held by its own waves."""
    u = sampled(lambda t: np.cos(2 * np.pi * 4 * t) + np.sin(2 * np.pi * 6 * t))
    errors = [error(u, order, measure=measure, window=window) for order in (16, 64)]
    assert errors[0] < 3e-2
    assert errors[1] < errors[0] / 2.5


def test_a_window_forgets() -> None:
    """A burst of before the window is gone, and the memory of all of the past still knows of it."""
    u = torch.zeros(1, 900, 1, dtype=torch.float64)
    u[:, 100:200] = 1.0
    gone, state = remembered(u, 32, measure="legt", window=300)
    assert gone.reconstruct(state, torch.arange(300)).abs().max() < 1e-3
    kept, state = remembered(u, 32)
    assert kept.reconstruct(state, torch.tensor([750])).item() > 0.9


@pytest.mark.parametrize("measure", ["legs", "lagt", "tlagt", "glagt"])
def test_a_past_that_fades(measure: str) -> None:
    """Events of late stand sharper than old ones."""
    u = sampled(lambda t: np.cos(12 * t * t), 3000)
    memory, state = remembered(u, 24, measure=measure, window=300)
    found = memory.reconstruct(state, torch.arange(600))[0, :, 0]
    assert (found[50:] - u[0].flip(0)[50:600, 0]).abs().max() < 2e-2


def test_rate_shortens_the_window() -> None:
    u = torch.randn(1, 80, 2, dtype=torch.float64)
    fine = HippoMemory(2, 8, measure="legt", window=40).double()
    coarse = HippoMemory(2, 8, measure="legt", window=20).double()
    y, state = fine.forward_with_state(u, fine.initial_state(1), rate=2.0)
    assert_close(y, coarse(u), rtol=0, atol=1e-13)
    expected = coarse.reconstruct(state, torch.arange(20))
    assert_close(fine.reconstruct(state, torch.arange(20), rate=2.0), expected, rtol=0, atol=1e-13)


# Recordings


def acceleration() -> torch.Tensor:
    """The first smartwatch recording, standardised: (1, 1333, 6)."""
    x = torch.from_numpy(np.asarray(data.read("watch").x[0])).double()
    return ((x - x.mean(0)) / x.std(0))[None]


@pytest.mark.parametrize("order", [16, 64, 128])
def test_a_recording_is_projected(order: int) -> None:
    u = acceleration()
    memory, state = remembered(u.float(), order)
    past = memory.reconstruct(state, torch.arange(u.shape[1])).flip(1)
    place = 2 * (np.arange(u.shape[1]) + 0.5) / u.shape[1] - 1
    for channel in range(6):
        scaled = projection(u[0, :, channel], order) * np.sqrt(2 * np.arange(order) + 1)
        best = np.polynomial.legendre.legval(place, scaled)
        assert_close(past[0, :, channel].double().numpy(), best, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("measure", "factor"), [("legt", 1.4), ("fourier", 1.8)])
def test_the_last_seconds_of_a_recording(measure: str, factor: float) -> None:
    """Ten seconds at 50 Hz, against the best polynomial of them."""
    u = acceleration()[..., :1]
    for order in (64, 128):
        assert error(u, order, measure=measure, window=500) < factor * best_error(u[0, -500:, 0], order)


# The protocol


@settings(max_examples=30)
@given(data=st.data(), batch=st.integers(1, 3), length=st.integers(0, 9))
def test_steps_are_counted(data, batch: int, length: int) -> None:
    row = st.lists(st.booleans(), min_size=length, max_size=length)
    marks = torch.tensor(data.draw(st.lists(row, min_size=batch, max_size=batch)), dtype=torch.bool)
    starts = marks.reshape(batch, length)
    lengths = torch.tensor(data.draw(st.lists(st.integers(0, length), min_size=batch, max_size=batch)))
    memory = HippoMemory(1, 3)
    before = HippoState(memory.initial_state(batch).x, torch.arange(batch) * 5)
    _, after = memory.forward_with_state(torch.zeros(batch, length, 1), before, lengths=lengths, starts=starts)
    for b in range(batch):
        count = b * 5
        for t in range(int(lengths[b])):
            count = 1 if starts[b, t] else count + 1
        assert after.steps[b] == count


def test_channels_stand_one_after_the_other() -> None:
    u = torch.randn(2, 20, 3)
    memory = HippoMemory(3, 4)
    y, state = memory.forward_with_state(u, memory.initial_state(2))
    assert memory.d_output == 12
    assert torch.equal(y[:, -1].unflatten(-1, (3, 4)), state.x.float())
    assert_close(HippoMemory(1, 4)(u[..., 1:2]), y.unflatten(-1, (3, 4))[..., 1, :], rtol=0, atol=1e-6)


def test_rows_of_any_age_in_one_batch() -> None:
    memory, u = HippoMemory(2, 5).double(), torch.randn(3, 10, 2, dtype=torch.float64)
    states = [memory.forward_with_state(u[:1, :n], memory.initial_state(1))[1] for n in (0, 4, 9)]
    joined = HippoState(*(torch.cat(parts) for parts in zip(*states, strict=True)))
    y, _ = memory.forward_with_state(u, joined)
    for row, state in enumerate(states):
        assert_close(y[row : row + 1], memory.forward_with_state(u[row : row + 1], state)[0], rtol=0, atol=1e-13)


def test_nothing_is_learned_or_saved() -> None:
    memory = HippoMemory(2, 4)
    assert not list(memory.parameters())
    assert not memory.state_dict()


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: HippoMemory(0), "`d_model` is 0, but a positive integer is needed"),
        (lambda: HippoMemory(1, 0), "`order` is 0, but a positive integer is needed"),
        (lambda: HippoMemory(1, measure="chebt"), "`measure` is 'chebt', but one of legs, legsd"),
        (lambda: HippoMemory(1, measure="foud"), "`measure` is 'foud', but it lays stretches of the past upon each"),
        (lambda: HippoMemory(1, measure="legt"), "`window` is None with measure 'legt', but only legs remembers all"),
        (lambda: HippoMemory(1, window=0), "`window` is 0, but a positive number of elements is needed"),
        (lambda: HippoMemory(1, rule="dirac"), "`rule` is 'dirac', but one of zoh, bilinear, euler, backward_euler"),
        (lambda: HippoMemory(1, 5, measure="fourier", window=9), "`d_state` is 5, but the fourier measure needs an ev"),
        (lambda: HippoMemory(1, beta=2.0, window=9), "`beta` is 2.0 with measure 'legs', but only lagt, tlagt, glagt"),
        (lambda: HippoMemory(1, 16, rule="euler"), "`rule` is 'euler' with measure 'legs' of order 16, but beyond or"),
        (
            lambda: HippoMemory(1, 64, measure="legt", window=100, rule="euler"),
            "`rule` is 'euler' with a step of 0.02 for order 64, but its powers grow without end; use 'zoh', a longer",
        ),
        (
            lambda: HippoMemory(1)(torch.zeros(1, 4, 1), rate=2.0),
            "`rate` is given, but a memory of all of the past has",
        ),
        (
            lambda: HippoMemory(1, window=9)(torch.zeros(1, 4, 1), rate=torch.ones(1, 4)),
            "`rate` is a tensor of shape .*, but HippoMemory is time invariant",
        ),
        (
            lambda: HippoMemory(2)(torch.zeros(1, 4, 1)),
            r"`x` has shape \(1, 4, 1\), but \(batch, length, 2\) is needed",
        ),
        (
            lambda: HippoMemory(1, measure="legt", window=9).reconstruct(
                HippoMemory(1).initial_state(1), torch.tensor([9])
            ),
            "`lags` holds 9, but a window of 9 elements ends at lag 8.5",
        ),
    ],
)
def test_errors_say_what_to_do(build: Callable[[], object], text: str) -> None:
    with pytest.raises(InputError, match=text):
        build()
