"""The runner on toys whose time and memory are known."""

import csv
import importlib
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from longstate import InputError
from longstate.bench import CASES, Case, NotInstalled, Options, Row, Side, Work, chosen, measure, run, write
from longstate.bench.limits import Product, copy_speed, products, sgemm_speed
from longstate.bench.measure import ALONE
from longstate.bench.memory import run_alone
from longstate.bench.report import growth, seconds_text, size_text, slope, slopes, table

MEASURE = importlib.import_module("longstate.bench.measure")
CALLS: list[str] = []


class Clock:
    """Time passes when a toy says so, and half of it on the processor."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.now / 2


CLOCK = Clock()


def last(size: int, *, name: str, seconds: float) -> Work:
    def work() -> None:
        CALLS.append(name)
        CLOCK.now += seconds * size

    return work


def allocate(size: int) -> Work:
    return lambda: torch.ones(size, dtype=torch.uint8).clone()


def missing(size: int) -> Work:
    raise NotInstalled("not installed (pip install nothing)")


def killed(size: int) -> Work:
    return lambda: os._exit(9)


def wrong(size: int) -> Work:
    return lambda: torch.ones(2) @ torch.ones(3)


def side(name: str, seconds: float, role: str = "peer", **more: object) -> Side:
    return Side(name=name, prepare=partial(last, name=name, seconds=seconds), role=role, **more)  # type: ignore[arg-type]


def toy(*sides: Side, **more: object) -> Case:
    fields = {"name": "toy", "title": "A toy", "axis": "length", "sizes": (1, 2, 4), "quick": (1,), "memory": False}
    return Case(sides=sides, **{**fields, **more})  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    CALLS.clear()
    monkeypatch.setattr(MEASURE, "time", CLOCK)


def test_sides_take_turns_and_are_divided_round_by_round() -> None:
    case = toy(side("ours", 0.02, "longstate"), side("peer", 0.06), side("bound", 0.01, "limit"), units=2)
    rows = measure(case, 1, rounds=3, threads=1)
    assert CALLS == ["ours", "peer", "bound"] * 4  # once for warmth
    ours, peer, bound = rows
    assert ours.runs == 3
    assert ours.seconds == pytest.approx(0.01)
    assert (ours.times_ours, bound.times_limit) == pytest.approx((1.0, 1.0))
    assert peer.times_ours == pytest.approx(3)
    assert peer.times_limit == pytest.approx(6)
    assert peer.cpu == pytest.approx(0.015)
    assert (peer.low, peer.seconds, peer.high) == pytest.approx((0.03, 0.03, 0.03))


def test_a_slow_side_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MEASURE, "PATIENCE", 0.05)
    rows = measure(toy(side("ours", 0.01, "longstate"), side("slow", 0.1)), 1, rounds=3, threads=1)
    assert CALLS.count("slow") == 1
    assert (rows[1].runs, rows[1].note) == (1, "one run")
    assert rows[1].times_ours == pytest.approx(10)


def test_what_is_not_run_says_why() -> None:
    late = side("late", 0, largest=1, patient=2)
    absent = Side(name="absent", prepare=missing, role="peer")
    large = side("large", 0, needs=lambda size: 10**15)
    rows = {row.side: row for row in measure(toy(late, absent, large), 2, rounds=1, threads=1)}
    assert rows["late"].note == "not run (--long)"
    assert rows["absent"].note == "not installed (pip install nothing)"
    assert rows["large"].note.startswith("not run: needs 1000000 GB")
    assert all(row.seconds is None for row in rows.values())
    assert measure(toy(late), 2, rounds=1, threads=1, long=True)[0].runs == 1
    assert measure(toy(late), 4, rounds=1, threads=1, long=True)[0].note == "not run: too slow or too large"


def test_memory_is_what_a_run_adds_to_a_fresh_process() -> None:
    found = run_alone(allocate, 300_000_000, 1)
    assert found.peak == pytest.approx(600_000_000, rel=0.05)
    assert found.seconds is not None


def test_a_process_that_was_ended_is_a_note_and_an_error_is_an_error() -> None:
    assert run_alone(killed, 1, 1).note == "ended by the system (exit code 9)"
    assert run_alone(missing, 1, 1).note == "not installed (pip install nothing)"
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        run_alone(wrong, 1, 1)


def test_a_large_side_runs_alone() -> None:
    large = Side(name="large", prepare=allocate, needs=lambda _: ALONE + 1)
    (row,) = measure(toy(large, memory=True), 1000, rounds=5, threads=1)
    assert (row.runs, row.note) == (1, "one run, alone in its process")
    assert row.peak is not None


def test_tables_files_and_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    case = toy(side("ours", 0.001, "longstate"), side("bound", 0.001, "limit"), notes=("A note.",))
    absent = toy(Side(name="absent", prepare=missing, role="peer"), name="empty", sizes=(1,))
    result = run([case, absent], Options(rounds=2, threads=1, memory=False))
    write(result, tmp_path / "out")
    with (tmp_path / "out/results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["case"], line["size"], line["side"]) for line in lines][:2] == [
        ("toy", "1", "ours"),
        ("toy", "1", "bound"),
    ]
    assert float(lines[0]["seconds"]) == result.rows[0].seconds
    text = (tmp_path / "out/results.md").read_text()
    for part in ("## toy\n\nA toy.", "A note.", "not installed (pip install nothing)", "GFLOP/s", "1 threads"):
        assert part in text
    assert (tmp_path / "out/toy.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "out/empty.png").exists()


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    run([], Options(threads=before + 1, quick=True))
    assert torch.get_num_threads() == before


def test_exponents_of_growth() -> None:
    assert slope([1, 2, 4], [3, 12, 48]) == pytest.approx(2)
    assert slope([1], [1]) is None
    rows = [
        Row(case="toy", size=size, side="ours", role="longstate", seconds=0.1 * size, peak=None if size == 1 else 7)
        for size in (1, 2, 4)
    ]
    assert growth(rows, "ours", memory=False) == ([1, 2, 4], pytest.approx([0.1, 0.2, 0.4]))
    assert growth(rows, "ours", memory=True) == ([2, 4], [7.0, 7.0])
    case = toy(side("ours", 0, "longstate"), memory=True)
    assert "| ours | 1.00 | 0.00 |" in slopes(case, rows)
    assert slopes(toy(side("ours", 0), sizes=(1, 2)), rows) == ""
    (row,) = measure(toy(side("ours", 0.001, "longstate")), 1, rounds=1, threads=1)
    assert (
        table(case, [replace(row, seconds=0.1, cpu=0.02, peak=3 * 10**6)]).splitlines()[-1]
        == "| 1 | ours | 100 ms |  | 20 ms | 1.00 | 3 MB |"
    )


def test_numbers_for_people() -> None:
    assert [seconds_text(value) for value in (12.345, 0.0123, 4.5e-6, 3e-8, 1234.0)] == [
        "12.3 s",
        "12.3 ms",
        "4.5 µs",
        "0.03 µs",
        "1234 s",
    ]
    assert [size_text(value) for value in (None, 12_000_000, 2_500_000_000)] == ["-", "12 MB", "2.50 GB"]


def test_limits_multiply_what_they_say() -> None:
    assert Product(2, 3, 4, 5).flops == 240
    products([Product(2, 3, 4), Product(2, 3, 4, 5)], copied=10, backward=True)()
    assert sgemm_speed(64, 1) > 0
    assert copy_speed(1000, 1) > 0


def test_cases_are_found_by_name() -> None:
    assert [case.name for case in chosen(["step", "mamba_layer"])] == ["mamba_layer", "step"]
    assert chosen(["all"]) == list(CASES.values())
    with pytest.raises(InputError, match=r"`case` is 'stpe', but one of all, mamba_layer, .* is needed; pick"):
        chosen(["stpe"])
    with pytest.raises(InputError, match="rounds"):
        Options(rounds=0)
