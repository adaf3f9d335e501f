"""The packaged smartwatch recordings, and the unpickler that reads them without running them."""

import _codecs
import os
import sys

import numpy as np
import pytest

from longstate._checks import InputError
from longstate.data import read
from longstate.data.plain_pickle import read_plain_pickle

NAMES = ["PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW"]


def content(**changes):
    return {
        "X": [np.full((length, 6), float(length)) for length in (3, 5, 4)],
        "y": np.array([6, 0, 6]),
        "subject": np.array([10, 2, 2]),
        "side": np.array([0.0, 1.0, 1.0]),
        "X_labels": ["ax", "ay", "az", "wx", "wy", "wz"],
        "y_labels": NAMES,
        **changes,
    }


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of the same name and layout in place of the real one; importing it is an error."""
    home = tmp_path / "seglearn"
    (home / "data").mkdir(parents=True)
    (home / "__init__.py").write_text("raise ImportError('imported')")
    monkeypatch.syspath_prepend(tmp_path)

    def write(thing):
        np.save(home / "data" / "watch_dataset.npy", np.array(thing, dtype=object), allow_pickle=True)

    return write


class Attack:
    """Unpickled, it makes a folder."""

    def __init__(self, trace, function=os.mkdir):
        self.call = (function, (str(trace),))

    def __reduce__(self):
        return self.call


def test_the_recordings_themselves():
    """The real package, which the tests' requirements bring."""
    recordings = read("watch")
    assert (len(recordings), recordings.lengths.min(), recordings.lengths.max()) == (140, 947, 2618)
    assert recordings.lengths.sum() == 244_102
    assert recordings.classes == tuple(NAMES)
    assert np.bincount(recordings.y).tolist() == [20] * 7
    assert set(recordings.groups) == {str(subject) for subject in range(1, 11)}
    assert recordings.channels == ("ax", "ay", "az", "wx", "wy", "wz")
    assert recordings.sampling_rate == 50.0
    assert "seglearn" not in sys.modules


def test_layout(package):
    package(content())
    recordings = read("watch")
    assert recordings.y.tolist() == [6, 0, 6], "the package's order of classes is kept"
    assert recordings.groups == ("10", "2", "2")
    assert recordings.x[1].tolist() == [[5.0] * 6] * 5
    assert read("watch", task="prediction").task == "prediction"
    assert read("watch", channels=["wz", "ax"]).x[0].shape == (3, 2)
    with pytest.raises(InputError, match="watch holds labels for classification, but regression is wanted"):
        read("watch", task="regression")
    assert "seglearn" not in sys.modules


@pytest.mark.parametrize(
    "thing", [content(y_labels=["a", "b"]), content(X_labels=["ax"]), {"X": []}, [1, 2]], ids=["y", "X", "keys", "list"]
)
def test_another_file(package, thing):
    package(thing)
    with pytest.raises(InputError, match=r"is not the file of recordings .*`pip install --no-deps seglearn==1\.2\.5"):
        read("watch")


def test_no_file(package):
    with pytest.raises(InputError, match=r"watch_dataset\.npy is not the file of recordings that seglearn 1\.2\.5"):
        read("watch")


def test_no_package(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(InputError) as caught:
        read("watch")
    assert str(caught.value) == (
        "the smartwatch recordings were asked for, but they come with the package seglearn, which is not installed; "
        "run `pip install --no-deps seglearn==1.2.5`."
    )


@pytest.mark.parametrize("place", ["X", "side", "extra"])
def test_a_malicious_pickle_does_nothing(package, tmp_path, place):
    trace = tmp_path / "trace"
    package(content(**{place: [Attack(trace)]}))
    with pytest.raises(InputError) as caught:
        read("watch")
    path = tmp_path / "seglearn" / "data" / "watch_dataset.npy"
    assert str(caught.value) == (
        f"{path} names `{os.mkdir.__module__}.mkdir`, but only arrays and plain containers may be unpickled; do not "
        "open the file, and find out where it comes from."
    )
    assert not trace.exists()
    np.load(path, allow_pickle=True)
    assert trace.exists(), "the attack works on an ordinary unpickler, so its failure above means something"


@pytest.mark.parametrize("function", [eval, exec, __import__, getattr, os.system, np.load, np.ndarray.tofile])
def test_nothing_else_is_named(tmp_path, function):
    np.save(tmp_path / "a.npy", np.array({"x": Attack("1", function)}, dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"names `[\w.]+`, but only arrays and plain containers may be unpickled"):
        read_plain_pickle(tmp_path / "a.npy")


def test_arrays_of_every_plain_kind(tmp_path):
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.array(["x", "yz"]), "d": np.array(2)}
    thing = {**arrays, "c": [(1, None, True, b"z")]}
    np.save(tmp_path / "a.npy", np.array(thing, dtype=object), allow_pickle=True)
    read_back = read_plain_pickle(tmp_path / "a.npy")
    assert read_back["c"] == thing["c"]
    for name, array in arrays.items():
        np.testing.assert_array_equal(read_back[name], array)


def test_cut_off(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.array(content(), dtype=object), allow_pickle=True)
    data = path.read_bytes()
    for cut in (0, 5, 90, 200, len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(InputError, match=r"cannot be read \(.*\), but a whole pickle of arrays is needed"):
            read_plain_pickle(path)


class Subclass(np.ndarray):
    """A kind of array that is not numpy's own."""


RECONSTRUCT = np.zeros(1).__reduce__()[0]


@pytest.mark.parametrize(
    ("function", "arguments", "sentence"),
    [
        (RECONSTRUCT, (np.ndarray, (10**9,), b"b"), "builds an array of an unusual kind, but plain arrays are needed"),
        (RECONSTRUCT, (Subclass, (0,), b"b"), r"names `.*Subclass`, but only arrays"),
        (_codecs.encode, ("x", "rot13"), "encodes text as 'rot13', but only latin1 is used"),
        (np.ndarray, ((10**12,),), r"cannot be read \('object' object is not callable\)"),
    ],
    ids=["shape", "class", "encoding", "call"],
)
def test_what_is_admitted_does_only_what_arrays_need(tmp_path, function, arguments, sentence):
    thing = Attack("", function)
    thing.call = (function, arguments)
    np.save(tmp_path / "a.npy", np.array({"x": thing}, dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=sentence):
        read_plain_pickle(tmp_path / "a.npy")
