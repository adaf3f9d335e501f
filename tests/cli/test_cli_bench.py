"""`longstate bench`: the list, a quick case with its files, and a name that is not known."""

import json

from longstate.bench import CASES


def test_no_name_lists_the_cases(run) -> None:
    said = run("bench")
    assert said.code == 0
    assert all(name in said.out for name in CASES)
    assert list(json.loads(run("bench", "--json").out)) == list(CASES)


def test_a_quick_case_prints_a_table_and_writes_files(run, tmp_path) -> None:
    said = run("bench", "step", "--quick", "--threads", 1, "--output", tmp_path / "out")
    assert said.code == 0
    assert "its matrix products" in said.out
    assert "GFLOP/s" in said.out
    assert "step layers 1: 4 sides in turns" in said.err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"results.csv", "results.md"}


def test_json_is_all_rows(run) -> None:
    found = json.loads(run("bench", "step", "--quick", "--json").out)
    assert [row["side"] for row in found["rows"]] == ["longstate", "plain torch", "LSTM", "its matrix products"]
    assert found["machine"]["gflops"] > 0


def test_an_unknown_case_is_a_sentence(run) -> None:
    said = run("bench", "mambda")
    assert said.code == 2
    assert said.err.startswith("`case` is 'mambda', but one of all, mamba_layer")
