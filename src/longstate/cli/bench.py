"""`longstate bench`: measures this library beside others on this machine."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from longstate.cli.console import print_facts, print_json, print_table

if TYPE_CHECKING:
    from longstate import bench


def run_bench(
    names: list[str],
    *,
    output: Path | None,
    rounds: int | None,
    threads: int | None,
    quick: bool,
    long: bool,
    as_json: bool,
) -> None:
    """Measure cases, or list them.

    Args:
        names: Of cases, or "all"; none lists them.
        output: Folder for the tables and pictures.
        rounds: How often the sides take turns.
        threads: Of PyTorch.
        quick: Small sizes, once.
        long: Wait for sides that take minutes.
        as_json: As JSON.
    """
    from longstate import bench

    if not names:
        _list(as_json=as_json)
        return
    cases = bench.chosen(names)
    options = bench.Options(rounds=rounds, threads=threads, quick=quick, long=long)
    result = bench.run(cases, options, say=lambda line: print(line, file=sys.stderr))
    if output is not None:
        bench.write(result, output)
    if as_json:
        print_json({"machine": vars(result.machine), "rows": [vars(row) for row in result.rows]})
        return
    print(result.machine.sentence())
    for case in cases:
        _print_case(case, [row for row in result.rows if row.case == case.name])


def _list(*, as_json: bool) -> None:
    from longstate import bench

    if as_json:
        print_json({case.name: {"title": case.title, case.axis: list(case.sizes)} for case in bench.CASES.values()})
        return
    facts: dict[str, object] = {
        case.name: f"{case.title} ({case.axis} {_sizes(case.sizes)})" for case in bench.CASES.values()
    }
    print_facts("longstate bench CASE ..., or all", facts)


def _sizes(sizes: tuple[int, ...]) -> str:
    return ", ".join(f"{size:,}" for size in sizes)


def _print_case(case: "bench.Case", rows: "list[bench.Row]") -> None:
    from longstate.bench.report import cells, heads

    print_table(f"{case.name}: {case.title}", heads(case), [cells(case, row) for row in rows])
