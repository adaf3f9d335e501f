import gc
import os
import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch

from longstate import models
from longstate.cli.stream import stream_rows
from longstate.inference import Session
from longstate.models import (
    BidirectionalClassifierConfig,
    RegressorConfig,
    TaggerConfig,
)


def signal_rows(length: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(length, 2)).astype(np.float32)


def as_csv(x: np.ndarray, header: str = "ax,ay\n") -> bytes:
    return (header + "".join(",".join(f"{value:.9g}" for value in row) + "\n" for row in x.tolist())).encode()


def numbers(out: str) -> np.ndarray:
    return np.array([[float(value) for value in line.split(",")] for line in out.splitlines()[1:]])


def test_every_row_gives_the_running_decision(run, folder, classifier) -> None:
    x = signal_rows(30)
    said = run("stream", folder, stdin=as_csv(x))
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines()[0] == "rest,walk"
    with torch.no_grad():
        running, _ = classifier.forward_with_state(torch.from_numpy(x)[None], classifier.initial_state(1))
    np.testing.assert_allclose(numbers(said.out), running[0].softmax(-1).numpy(), atol=2e-6)
    assert np.ptp(numbers(said.out)[:, 0]) > 0.05


def test_raw_every_and_columns_in_another_order_say_the_same(run, folder) -> None:
    x = signal_rows(30)
    whole = run("stream", folder, stdin=as_csv(x)).out.splitlines()
    raw = run("stream", folder, "--raw", "--every", 7, stdin=x.astype("<f4").tobytes()).out.splitlines()
    assert raw == [whole[0], *whole[7::7]]
    swapped = run("stream", folder, stdin=as_csv(x[:, ::-1], "ay,ax\n")).out.splitlines()
    assert swapped == whole


@pytest.mark.parametrize("cut", [0, 1, 13, 30])
def test_a_restart_continues_exactly(run, folder, tmp_path, cut) -> None:
    x = signal_rows(30)
    whole = run("stream", folder, stdin=as_csv(x)).out.splitlines()
    state = tmp_path / "state"
    first = run("stream", folder, "--state", state, stdin=as_csv(x[:cut])).out.splitlines()
    second = run("stream", folder, "--state", state, stdin=as_csv(x[cut:])).out.splitlines()
    assert first + second[1:] == whole


def test_the_model_folder_may_be_that_of_a_run(run, folder) -> None:
    assert run("stream", folder.parent, stdin=b"1,2\n").code == 0


def test_a_bad_row_ends_it_after_the_state_was_kept(run, folder, tmp_path) -> None:
    x = signal_rows(6)
    state = tmp_path / "state"
    said = run("stream", folder, "--state", state, stdin=as_csv(x[:3]) + b"1,nan\n")
    assert said.code == 2
    assert said.err.startswith("standard input, row 4: nan in channel 2 is not a finite float32 number; ")
    assert said.err.count("\n") == 1
    rest = run("stream", folder, "--state", state, stdin=as_csv(x[3:])).out.splitlines()
    assert rest[1:] == run("stream", folder, stdin=as_csv(x)).out.splitlines()[4:]


@pytest.mark.parametrize(
    ("options", "stdin", "message"),
    [
        ((), b"1,2,3\n", "standard input, row 1: 3 values came, but 2 are needed"),
        ((), b"ax,bx\n1,2\n", "standard input has the columns ax, bx, but ay is needed too"),
        (("--raw",), b"12345678123", "standard input, row 2: the input ends after 3 of the 8 bytes of a row"),
    ],
)
def test_bad_input_is_one_sentence(run, folder, options, stdin, message) -> None:
    said = run("stream", folder, *options, stdin=stdin)
    assert said.code == 2
    assert said.err.startswith(message)
    assert said.err.count("\n") == 1


def test_the_state_of_another_model_is_refused_and_left_alone(run, folder, classifier, tmp_path) -> None:
    state = tmp_path / "state"
    with torch.no_grad():
        classifier.head.bias.add_(1.0)
    Session(classifier).save(state)
    before = state.read_bytes()
    said = run("stream", folder, "--state", state, stdin=b"1,2\n")
    assert (said.code, said.out) == (2, "")
    assert "is the state of another model" in said.err
    assert state.read_bytes() == before


def test_a_state_file_needs_a_folder_before_the_first_row(run, folder, tmp_path) -> None:
    said = run("stream", folder, "--state", tmp_path / "no" / "state", stdin=b"1,2\n")
    assert (said.code, said.out) == (2, "")
    assert "is in no folder that is there; make" in said.err


def test_a_model_that_reads_both_ways_cannot_stream(run, classifier, tmp_path) -> None:
    config = BidirectionalClassifierConfig(d_input=2, classes=("a", "b"), backbone=classifier.config.backbone)
    models.save(models.build(config), tmp_path / "both")
    said = run("stream", tmp_path / "both", stdin=b"1,2\n")
    assert said.code == 2
    assert "needs the whole sequence at once" in said.err


def test_targets_are_numbers_and_tags_are_probabilities(run, classifier, tmp_path) -> None:
    backbone = classifier.config.backbone
    models.save(models.build(RegressorConfig(d_input=1, targets=("mass, kg",), backbone=backbone)), tmp_path / "r")
    models.save(models.build(TaggerConfig(d_input=1, classes=("a", "b"), backbone=backbone)), tmp_path / "t")
    said = run("stream", tmp_path / "r", stdin=b"1\n2\n")
    assert said.out.splitlines()[0] == '"mass, kg"'
    assert len(said.out.splitlines()) == 3
    assert numbers(run("stream", tmp_path / "t", stdin=b"1\n2\n").out).sum(1) == pytest.approx([1.0, 1.0], abs=1e-5)


def test_memory_does_not_grow(classifier) -> None:
    session = Session(classifier)
    row = np.ones(2, np.float32)

    def run_rows(count: int) -> int:
        stream_rows(session, classifier.config, (row for _ in range(count)), every=1, write=len)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        run_rows(100)
        before = run_rows(100)
        after = run_rows(4000)  # many, so that what the interpreter itself allocates now and then weighs little
    finally:
        tracemalloc.stop()
    assert after - before < 8 * 4000  # an object kept for each row would take 16 bytes at least


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_a_live_pipe_keeps_the_state(run, folder, tmp_path, number) -> None:
    x = signal_rows(8)
    whole = run("stream", folder, stdin=as_csv(x)).out.splitlines()
    state = tmp_path / "state"
    process = subprocess.Popen(
        [sys.executable, "-m", "longstate.cli", "stream", str(folder), "--state", str(state)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    lines = []
    for row in x[:3]:  # each answer comes before the next row is sent
        process.stdin.write(as_csv(row[None], ""))
        process.stdin.flush()
        lines += [process.stdout.readline()] if lines else [process.stdout.readline(), process.stdout.readline()]
    process.stdin.write(b"0.5,0.")  # a row that is under way
    process.stdin.flush()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert (out, err) == (b"", b"")
    assert [line.decode().rstrip("\n") for line in lines] == whole[:4]
    rest = run("stream", folder, "--state", state, stdin=as_csv(x[3:])).out.splitlines()
    assert rest[1:] == whole[4:]
