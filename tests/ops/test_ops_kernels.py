"""The compiled kernels by themselves: a driver without torch under sanitizers, what the compiler made of the loops, and
the package without them."""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import longstate
from longstate.cli.info import machine_facts
from longstate.ops import _native

SOURCES = Path(__file__).parents[2] / "csrc"
KERNELS = sorted(path for path in SOURCES.glob("*.cc") if path.stem not in ("dispatch", "driver"))
OPTIONS = ["-std=c++17", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wextra", "-Werror"]
COMPILER = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")
FACTS = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler on this machine")
needs_fma = pytest.mark.skipif(" fma " not in FACTS, reason="reads what is made for x86 with AVX2")


def compile_with(*arguments: str | Path) -> str:
    """What the compiler says."""
    built = subprocess.run([str(COMPILER), *OPTIONS, *map(str, arguments)], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return built.stderr


def has_sanitizers(folder: Path) -> bool:
    (folder / "empty.cc").write_text("int main() {}\n")
    command = [str(COMPILER), "-fsanitize=address,undefined", str(folder / "empty.cc"), "-o", str(folder / "empty")]
    return subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.parametrize("machine", [(), ("-march=native",)], ids=["baseline", "this machine"])
def test_driver_under_sanitizers(machine: tuple[str, ...], tmp_path: Path) -> None:
    if machine and platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("other machines have one variant, the baseline")
    if not has_sanitizers(tmp_path):
        pytest.skip("the compiler comes without its sanitizers")
    program = tmp_path / "driver"
    options = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", *machine, "-DISA=base"]
    compile_with(*options, *KERNELS, SOURCES / "dispatch.cc", SOURCES / "driver.cc", "-o", program)
    ran = subprocess.run([str(program)], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "base: 0 failures\n"), ran.stdout + ran.stderr


@needs_fma
@pytest.mark.parametrize(
    ("file", "functions"),
    [
        (
            "causal_conv1d.cc",
            ["void add_tap", "void add_four_taps", "void four_taps", "void accumulate_four", "void accumulate"],
        ),
        (
            "lti_step.cc",
            [
                *("void advance_real", "void advance_complex", "void advance_dense", "float read_complex"),
                *("void normalise", "void activate", "void gate"),
            ],
        ),
        ("dropout.cc", ["void draw", "void thin"]),
        ("gelu_map.cc", ["void gate_back"]),
        ("linear_scan.cc", ["void spread", "void advance", "void retreat"]),
        ("ssd.cc", ["void within", "float gather_terms"]),
        ("products.h", ["inline void scale", "inline void scale_by", "inline void add_to", "inline float dot"]),
        ("varying_scan.cc", ["void advance", "void read_out", "void read_back", "void retreat"]),
        ("mamba_step.cc", ["void make_steps", "float advance", "void gate"]),
        ("mamba2_step.cc", ["float advance", "void gate"]),
        ("step_parts.h", ["inline void activate", "inline void normalise"]),
        ("lti_step.cc", ["void advance_real", "void advance_complex", "void advance_dense", "float read_complex"]),
    ],
)
def test_hot_loops_are_vectorised(file: str, functions: list[str], tmp_path: Path) -> None:
    version = subprocess.run([str(COMPILER), "--version"], capture_output=True, text=True).stdout
    if "Free Software Foundation" not in version:
        pytest.skip("only gcc reports by line what it vectorises")
    options = ["-O3", "-mavx2", "-mfma", "-DISA=base", "-fopt-info-vec-optimized"]
    unit = {"products.h": "ssd.cc", "step_parts.h": "mamba_step.cc"}.get(file, file)
    report = compile_with(*options, "-c", SOURCES / unit, "-o", tmp_path / "kernel.o")
    found = {int(line) for line in re.findall(rf"{file}:(\d+):\d+: optimized: loop vectorized using 32", report)}
    text = (SOURCES / file).read_text()
    for function in functions:
        begin = text.index(f"\n{function}(") + 1
        first, count = text[:begin].count("\n") + 1, text[begin : text.index("\n}\n", begin)].count("\n")
        assert found & set(range(first, first + count + 1)), f"{function} of {file} has no vectorised loop"


@needs_fma
@pytest.mark.parametrize(("file", "count"), [("lti_scan.cc", 5), ("ssd.cc", 2), ("gelu_map.cc", 2)])
def test_products_keep_their_sums_in_registers(file: str, count: int, tmp_path: Path) -> None:
    target = tmp_path / "kernel.s"
    compile_with("-O3", "-mavx2", "-mfma", "-DISA=base", "-S", SOURCES / file, "-o", target)
    blocks = re.split(r"^\.L\w+:\n", target.read_text(), flags=re.MULTILINE)
    products = [block for block in blocks if len(re.findall(r"vfmadd\d+ps\s.*%ymm", block)) >= 8]
    stores = r"vmov[ua]ps\s+%ymm\d+, [^%\n]*\("
    assert sum(not re.search(stores, block) for block in products) >= count


@needs_fma
def test_the_selective_scan_keeps_its_states_in_registers(tmp_path: Path) -> None:
    """Of a step of the forward pass one vector is written, the output; a second may be one that found no register."""
    target = tmp_path / "kernel.s"
    compile_with("-O3", "-mavx2", "-mfma", "-DISA=base", "-S", SOURCES / "selective_scan.cc", "-o", target)
    blocks = re.split(r"^\.L\w+:\n", target.read_text(), flags=re.MULTILINE)
    steps = [block for block in blocks if len(re.findall(r"vfmadd\d+ps\s.*%ymm", block)) >= 14]
    assert min(len(re.findall(r"vmov[ua]ps\s+%ymm\d+, [^%\n]*\(", block)) for block in steps) <= 2


def test_info_says_which_kernels_run() -> None:
    facts = machine_facts()
    assert facts["compiled_kernels"] == (_native.instruction_set() or "not built")


def test_without_the_library_torch_does_the_work(tmp_path: Path) -> None:
    """A copy of the package as it is installed where there is no compiler."""
    left_out = shutil.ignore_patterns("*.so", "*.dylib", "*.dll", "__pycache__")
    shutil.copytree(Path(longstate.__file__).parent, tmp_path / "longstate", ignore=left_out)
    code = """
import sys

sys.meta_path = [finder for finder in sys.meta_path if "importlib" in finder.__module__]  # not an editable install's
import torch
import longstate
from longstate import ops
from longstate.ops import _native

assert longstate.__file__.startswith(FOLDER), longstate.__file__
from longstate.cli.info import machine_facts

assert _native.library() is None and machine_facts()["compiled_kernels"] == "not built"
torch.manual_seed(0)
for layer in (longstate.S4D(16, 8), longstate.S4(4, 8), longstate.Mamba(8)):
    x = torch.randn(2, 40, layer.d_model, requires_grad=True)
    y, state = layer.forward_with_state(x, layer.initial_state(2))
    (y.sum() + sum(part.sum() for part in state)).backward()
    with torch.no_grad():
        state = layer.initial_state(2)
        for t in range(40):
            y_t, state = layer.step(x[:, t], state)
    torch.testing.assert_close(y_t, y[:, -1].detach(), rtol=1e-4, atol=1e-5)
u, system = torch.randn(1, 9, 16), longstate.S4D(16, 8).system()
state = torch.zeros(1, 16, 4, 2)
for name, rest in (("lti_conv", (None, None)), ("lti_scan", (state, None, None))):
    first, second = ops.explain(name, u, system, *rest)[:2]
    assert first[0] == "native" and first[1].startswith("no native kernels were built"), first
    assert second == ("torch", None), second
try:
    ops.lti_conv(u, system, backend="native")
except longstate.InputError as error:
    print(error)
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", f"FOLDER = {str(tmp_path)!r}\n{code}"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == (
        "backend 'native' cannot run this call of lti_conv: no native kernels were built "
        "(install with a C++ compiler to get them); use backend='auto'.\n"
    )
