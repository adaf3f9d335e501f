"""Synthetic tasks: each held against its definition by a slow loop, or against an independent solution."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from longstate._checks import InputError
from longstate.data import read, split
from longstate.data.synthetic import (
    SYNTHETIC,
    associative_recall,
    copying,
    delay,
    induction_heads,
    labels_of,
    mackey_glass,
    read_synthetic,
    selective_copying,
)
from longstate.data.synthetic.numbers import integrate

SEEDS = st.integers(0, 1000)


def words(task, row):
    """A sequence and its answers as texts; "" where none is asked."""
    seen = [task.tokens[token] for token in task.x[row]]
    return seen, [task.classes[answer] if answer >= 0 else "" for answer in task.y[row]]


@given(seed=SEEDS, length=st.integers(1, 9), tokens=st.integers(1, 5), vocabulary=st.integers(4, 7))
def test_copying(seed, length, tokens, vocabulary):
    task = copying(4, seed, length=length, tokens=tokens, vocabulary=vocabulary)
    assert len(task.tokens) == vocabulary
    for row in range(4):
        seen, asked = words(task, row)
        said = seen[:tokens]
        assert not {"blank", "marker"} & set(said)
        assert seen == said + ["blank"] * length + ["marker"] * tokens
        assert asked == [""] * (tokens + length) + said


@given(seed=SEEDS, length=st.integers(5, 12), tokens=st.integers(1, 5), vocabulary=st.integers(4, 7))
def test_selective_copying(seed, length, tokens, vocabulary):
    task = selective_copying(4, seed, length=length, tokens=tokens, vocabulary=vocabulary)
    for row in range(4):
        seen, asked = words(task, row)
        said = [token for token in seen[:length] if token != "blank"]
        assert len(said) == tokens
        assert "marker" not in said
        assert seen[length:] == ["marker"] * tokens
        assert asked == [""] * length + said


def test_places_of_selective_copying_are_all_alike():
    task = selective_copying(4000, 0, length=8, tokens=2)
    share = (task.x[:, :8] > 0).mean(axis=0)
    np.testing.assert_allclose(share, 0.25, atol=0.03)


@given(seed=SEEDS, pairs=st.integers(1, 9), vocabulary=st.integers(6, 12))
def test_associative_recall(seed, pairs, vocabulary):
    options = {"length": 2 * pairs, "vocabulary": vocabulary}
    task = associative_recall(4, seed, **options)
    every = associative_recall(4, seed, **options, every_key=True)
    assert np.array_equal(task.x, every.x)
    assert len(task.classes) == (vocabulary - 2) // 2
    for row in range(4):
        seen, asked = words(task, row)
        book, expected = {}, []
        for key, value in zip(seen[: 2 * pairs : 2], seen[1 : 2 * pairs : 2], strict=True):
            assert key.startswith("key")
            assert value.startswith("value")
            assert book.get(key, value) == value, "a key has one value in a sequence"
            expected += [book.get(key, ""), ""]
            book[key] = value
        assert seen[-2] == "marker"
        assert asked == [""] * (2 * pairs + 1) + [book[seen[-1]]]
        assert words(every, row)[1] == [*expected, "", book[seen[-1]]]


def test_every_key_that_occurred_is_asked_for_as_often():
    task = associative_recall(6000, 0, length=6, vocabulary=6)  # two keys, three times
    both = [row for row in task.x if len(set(row[:6:2])) == 2]
    rarer = [sum(key == row[-1] for key in row[:6:2]) == 1 for row in both]
    assert abs(np.mean(rarer) - 0.5) < 0.03
    assert {word for row in range(100) for word in words(task, row)[0]} == set(task.tokens)


@given(seed=SEEDS, length=st.integers(3, 12), vocabulary=st.integers(4, 7))
def test_induction_heads(seed, length, vocabulary):
    task = induction_heads(4, seed, length=length, vocabulary=vocabulary)
    assert len(task.classes) == vocabulary - 2
    for row in range(4):
        seen, asked = words(task, row)
        assert [place for place, word in enumerate(seen) if word == "marker"][1:] == [length]
        assert asked == [""] * length + [seen[seen.index("marker") + 1]]


def test_the_marker_of_induction_heads_stands_anywhere():
    task = induction_heads(3000, 0, length=8)
    places = np.argmin(task.x, axis=1)
    np.testing.assert_allclose(np.bincount(places, minlength=8) / 3000, [1 / 6] * 6 + [0, 0], atol=0.03)


@pytest.mark.parametrize("length", [200, 201])
def test_delay_is_white_below_a_frequency(length):
    task = delay(2000, 0, length=length, lag=30, band=0.1)
    assert np.array_equal(task.y[:, 30:], task.x[:, :-30])
    assert np.isnan(task.y[:, :30]).all()
    power = np.abs(np.fft.rfft(task.x, axis=1)) ** 2
    heard = np.arange(len(power[0])) / length <= 0.1
    heard[0] = False
    assert power[:, ~heard].max() < 1e-20 * power.max()
    np.testing.assert_allclose(power[:, heard].mean(axis=0), power[:, heard].mean(), rtol=0.15)
    np.testing.assert_allclose(task.x.var(axis=0).mean(), 1, rtol=0.02)


@pytest.mark.parametrize("tau", [17, 30])
def test_mackey_glass_by_the_method_of_steps(tau):
    """Over one delay after the other the equation is an ordinary one, whose solver has its own steps and order."""
    past, samples = np.array([0.5, 1.2]), 5 * tau
    for place, start in enumerate(past):
        pieces, exact = [lambda t, start=start: np.full(np.shape(t), start)], []
        for number in range(5):

            def slope(t, x, number=number, before=pieces[-1]):
                delayed = before(t - tau)
                return 0.2 * delayed / (1 + delayed**10) - 0.1 * x

            times = (number * tau, (number + 1) * tau)
            begin = float(pieces[-1](times[0]))
            solved = solve_ivp(slope, times, [begin], method="DOP853", rtol=1e-12, atol=1e-12, dense_output=True)
            pieces.append(lambda t, solved=solved: solved.sol(t)[0])
            exact += [float(pieces[-1](t)) for t in range(times[0] + 1, times[1] + 1)]
        found = integrate(past, samples=samples, tau=tau)[place]
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-6)


def test_mackey_glass_looks_ahead_and_is_chaotic():
    task = mackey_glass(2, 0, length=300, ahead=7, before=20)
    assert np.array_equal(task.y[:, 20:-7], task.x[:, 27:])
    assert np.isnan(task.y[:, :20]).all()
    assert not np.isnan(task.y[:, 20:]).any()
    assert np.abs(task.x[0] - task.x[1]).max() > 0.2
    first, second = integrate(np.array([1.2, 1.2 + 1e-6]), samples=1500, tau=30)
    assert np.abs(first - second)[:20].max() < 1e-5
    assert np.abs(first - second).max() > 0.1


MADE = {
    "copying": lambda count, seed: copying(count, seed).x,
    "selective_copying": lambda count, seed: selective_copying(count, seed).x,
    "associative_recall": lambda count, seed: associative_recall(count, seed).x,
    "induction_heads": lambda count, seed: induction_heads(count, seed).x,
    "delay": lambda count, seed: delay(count, seed, length=50, lag=5).x,
    "mackey_glass": lambda count, seed: mackey_glass(count, seed, length=20, before=5, tau=4).x,
}


@pytest.mark.parametrize("name", SYNTHETIC)
def test_a_seed_repeats_and_another_differs(name):
    first, again, other = MADE[name](5, 3), MADE[name](5, 3), MADE[name](5, 4)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not any(np.array_equal(a, b) for a, b in itertools.combinations(first, 2))


SMALL = {
    "copying": "length=3&tokens=9&vocabulary=5",
    "selective_copying": "length=12&tokens=9&vocabulary=5",
    "associative_recall": "length=20&vocabulary=6",
    "induction_heads": "length=20&vocabulary=5",
    "delay": "length=50&lag=5&band=0.2",
    "mackey_glass": "length=20&before=5&tau=4",
}
STEPS = {
    "copying": 21,
    "selective_copying": 21,
    "associative_recall": 22,
    "induction_heads": 21,
    "delay": 50,
    "mackey_glass": 20,
}


@pytest.mark.parametrize("name", SYNTHETIC)
def test_a_source_is_three_parts_that_differ(name):
    source = f"task:{name}?{SMALL[name]}&train=16&validation=4&test=5&seed=2"
    recordings = read(source, task=labels_of(source))
    assert recordings.task == labels_of(source)
    assert recordings.splits == ("train",) * 16 + ("validation",) * 4 + ("test",) * 5
    assert set(recordings.lengths) == {STEPS[name]}
    assert len(set(recordings.names)) == 25
    assert [len(part) for part in split(recordings, validation=0.2, test=0.2)] == [16, 4, 5]
    assert not any(np.array_equal(recordings.x[0], recordings.x[row]) for row in (16, 20))
    other = read_synthetic(source.replace("seed=2", "seed=3"))
    assert not any(np.array_equal(a, b) for a, b in zip(recordings.x[:3], other.x[:3], strict=True))
    if name in ("delay", "mackey_glass"):
        assert (recordings.channels, recordings.targets) == (("x",), ("y",))
        assert recordings.y[0].shape == (STEPS[name], 1)
    else:
        assert all((row.sum(axis=1) == 1).all() and set(np.unique(row)) == {0, 1} for row in recordings.x)


def test_parts_come_from_their_seeds():
    recordings = read_synthetic("task:associative_recall?length=8&train=2&validation=1&test=2&seed=1")
    for rows, seed, every in ((slice(0, 2), 3, True), (slice(2, 3), 4, False), (slice(3, 5), 5, False)):
        part = associative_recall(rows.stop - rows.start, seed, length=8, every_key=every)
        assert np.array_equal(np.stack(recordings.x[rows]).argmax(axis=2), part.x)
        assert np.array_equal(np.stack(recordings.y[rows]), part.y)
        assert recordings.channels == part.tokens
        assert recordings.classes == part.classes


def test_a_part_may_be_left_out():
    assert set(read_synthetic("task:copying?train=0&validation=0&test=3").splits) == {"test"}
    with pytest.raises(InputError, match="has no sequences in any part, but one at least is needed; set `train`"):
        read_synthetic("task:copying?train=0&validation=0&test=0")


def test_shorter_sequences_are_mixed_into_the_training_part_alone():
    source = "task:associative_recall?length=24&vocabulary=6&shortest=6&train=7&validation=2&test=0"
    recordings = read_synthetic(source)
    assert recordings.lengths.tolist() == [26] * 3 + [14] * 3 + [8] + [26] * 2
    assert recordings.splits == ("train",) * 7 + ("validation",) * 2
    whole = associative_recall(3, 0, length=24, vocabulary=6, every_key=True)
    assert np.array_equal(np.stack(recordings.x[:3]).argmax(axis=2), whole.x)
    assert all((recordings.y[row] >= 0).sum() > 1 for row in range(7))  # two keys in three pairs: one comes again
    halves = np.stack(recordings.x[3:6])
    assert not np.array_equal(halves[:, :12], np.stack(recordings.x[:3])[:, :12])
    assert len(read_synthetic("task:copying?shortest=60&train=2&validation=0&test=0").lengths) == 2


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("task:delay?shortest=8", "has the option 'shortest', but delay has length, lag, band, train, validation, te"),
        ("task:copying?shortest=0", "`shortest` is 0 for a `length` of 100, but a whole number from 1 to the length"),
        ("task:copying?shortest=101", "`shortest` is 101 for a `length` of 100, but a whole number from 1 to the"),
        ("task:copyng", "task:copyng is asked for, but the tasks are copying, selective_copying, associative_recall,"),
        ("task:copying?lenght=3", "has the option 'lenght', but copying has length, tokens, vocabulary, train, valid"),
        ("task:associative_recall?every_key=1", "has the option 'every_key', but associative_recall has length, voc"),
        ("task:delay?lag=far", "has lag=far, but a whole number from 0 is needed; write lag=NUMBER"),
        ("task:delay?lag=2.5", "has lag=2.5, but a whole number from 0 is needed"),
        ("task:delay?band=-1", "has band=-1, but a number from 0 is needed"),
        ("task:delay?band=0.7", "`band` is 0.7 for a `length` of 1024, but a frequency from 1 / length to 0.5 cycles"),
        ("task:delay?band=nan", "`band` is nan for a `length` of 1024"),
        ("task:delay?lag=1024", "`lag` is 1024 for a `length` of 1024, but steps after it are needed"),
        ("task:copying?length=0", "`length` is 0, but a positive integer is needed"),
        ("task:copying?vocabulary=3", "`vocabulary` is 3, but blank, marker and two tokens to remember are needed"),
        (
            "task:selective_copying?length=9&tokens=10",
            "`tokens` is 10 for a `length` of 9, but each token needs a",
        ),
        ("task:associative_recall?length=7", "`length` is 7 and `vocabulary` 20, but pairs of two keys at least"),
        ("task:associative_recall?vocabulary=5", "`length` is 40 and `vocabulary` 5, but pairs of two keys at least"),
        ("task:induction_heads?length=2", "`length` is 2 and `vocabulary` 20, but a marker, a token after it and"),
        ("task:mackey_glass?length=9&before=9", "`before` is 9 for a `length` of 9, but steps after it are needed"),
    ],
)
def test_refused(source, sentence):
    with pytest.raises(InputError) as caught:
        read_synthetic(source)
    assert sentence in str(caught.value)


def test_the_labels_are_those_of_the_task():
    with pytest.raises(InputError, match="holds labels for tagging, but classification is wanted"):
        read("task:copying?train=3")
    assert read("task:copying?train=3", task="prediction").task == "prediction"
