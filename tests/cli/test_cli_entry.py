import errno
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from longstate._checks import InputError
from longstate.cli.entry import main

COMMANDS = ("demo", "fit", "evaluate", "predict", "stream", "generate", "convert", "info")


def children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_takes_under_half_a_second_of_the_processor() -> None:
    seconds = []
    for _ in range(2):
        before = children_seconds()
        result = subprocess.run([sys.executable, "-m", "longstate.cli", "--help"], capture_output=True, text=True)
        seconds.append(children_seconds() - before)
    assert result.returncode == 0
    assert all(name in result.stdout for name in COMMANDS)
    assert min(seconds) < 0.5


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_page_of_help(run, command) -> None:
    said = run(command, "--help")
    assert said.code == 0
    assert f"longstate {command}" in said.out


def test_version(run) -> None:
    said = run("--version")
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", said.out)
    assert said.code == 0


def test_no_command_shows_the_help_and_is_a_usage_error(run) -> None:
    assert run().code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predikt"], "No such command 'predikt'"),
        (["stream"], "Missing argument 'MODEL'"),
        (["stream", "x", "--evry", "3"], "--evry"),
        (["stream", "x", "--every", "0"], "every"),
    ],
)
def test_wrong_usage_is_one_message_and_exit_2(run, arguments, message) -> None:
    said = run(*arguments)
    assert said.code == 2
    assert message in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("`x` is 3, but 4 is needed; give 4."), 2, "`x` is 3, but 4 is needed; give 4.\n"),
        (OSError(errno.ENOSPC, "No space left on device", "f"), 2, "No space left on device (f); make room there, or "),
        (PermissionError(errno.EACCES, "Permission denied", "f"), 2, "Permission denied (f); ask for the right"),
        (MemoryError(), 2, "The memory of this machine is used up; give a smaller training.batch_size"),
        (KeyboardInterrupt(), 130, ""),
        (RuntimeError("odd\nmore"), 1, "RuntimeError: odd (a defect of longstate: run the command again with --debug"),
        (ValueError("odd"), 1, "ValueError: odd (a defect"),
    ],
)
def test_errors_become_one_sentence_and_a_code(run, monkeypatch, error, code, message) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("longstate.cli.info.run_info", fail)
    said = run("info")
    assert said.code == code
    assert said.err.startswith(message)
    assert said.err.count("\n") == (1 if message else 0)


def test_debug_shows_where_anywhere_in_the_command(monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("odd")

    monkeypatch.setattr("longstate.cli.info.run_info", fail)
    for arguments in (["info", "--debug"], ["--debug", "info"]):
        with pytest.raises(RuntimeError, match="odd"):
            main(arguments)


def test_without_typer_the_pip_line_is_printed(run, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "typer", None)
    monkeypatch.delitem(sys.modules, "longstate.cli.app", raising=False)
    said = run("info")
    assert said == (2, "", "The command line needs typer, which is not installed: pip install 'longstate[cli]'\n")


def test_a_reader_who_leaves_early_is_no_error(folder: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "longstate.cli", "stream", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdin.write(b"1,2\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"rest,walk\n"
    process.stdout.close()
    _, err = process.communicate(b"1,2\n" * 50, timeout=60)
    assert err == b""


def test_a_full_disk_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    with open(tmp_path / "out.csv", "wb") as out:
        result = subprocess.run(
            [sys.executable, "-m", "longstate.cli", "stream", str(folder)],
            input=b"1,2\n",
            stdout=out,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
        )
    assert result.returncode == 2
    assert result.stderr == b"File too large; make room there, or write somewhere else.\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "3000"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
    ],
)
def test_threads_that_wait_spin_shortly_unless_they_are_told_otherwise(run, monkeypatch, before, after) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")  # so that what the command sets is undone
        monkeypatch.delenv(name)
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    assert run("--version").code == 0
    assert {name: os.environ[name] for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT") if name in os.environ} == after
