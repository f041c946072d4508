"""`gradwire eval`, `explain` and `trace`: what a terminal shows, and what a wrong word is told."""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from gradwire.__main__ import main
from gradwire.demo import start_server

GRADWIRE = Path(sysconfig.get_path("scripts")) / "gradwire"


def run(*words):
    return subprocess.run([GRADWIRE, *words], capture_output=True, text=True, check=False, timeout=60)


def printed(capsys, *words):
    assert main(list(words)) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_a_table_of_value_and_derivatives():
    done = run("eval", "log(sin(x)) * y", "x=1.2", "y=[1,2,3]", "--jacobian", "--jvp", "x=1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "expression  log(sin(x)) * y",
        "x           1.2",
        "y           [1., 2., 3.]",
        "value       [-0.07038053, -0.14076105, -0.21114158]",
        "jacobian x  [0.38877957, 0.77755914, 1.16633871]",
        "jacobian y  [[-0.07038053,  0.        ,  0.        ],",
        "             [ 0.        , -0.07038053,  0.        ],",
        "             [ 0.        ,  0.        , -0.07038053]]",
        "jvp         [0.38877957, 0.77755914, 1.16633871]",
    ]


def test_json_of_every_derivative(capsys):
    words = ["eval", "x**2 * y", "x=3", "y=2", "--grad", "--hessian", "--jvp", "x=1, y=0", "--vjp", "2", "--hvp", "y=1", "--json"]
    assert json.loads(printed(capsys, *words)) == {
        "expression": "x**2 * y",
        "arguments": {"x": 3.0, "y": 2.0},
        "value": 18.0,
        "grad": {"x": 12.0, "y": 9.0},
        "hessian": {"x": {"x": 4.0, "y": 6.0}, "y": {"x": 6.0, "y": 0.0}},
        "jvp": 12.0,
        "vjp": {"x": 24.0, "y": 18.0},
        "hvp": {"y": 0.0},
    }
    found = json.loads(
        printed(capsys, "eval", "[r*cos(t), r*sin(t)]", "r=2", "t=pi/2", "--jacobian-det", "--jacobian-slogdet", "--json")
    )
    assert found["jacobian_det"] == pytest.approx(2)
    assert found["jacobian_slogdet"] == {"sign": 1.0, "logabsdet": pytest.approx(np.log(2))}
    found = json.loads(printed(capsys, "eval", "x, 2*x", "x=3", "--jacobian", "--jacobian-logvolume", "--json"))
    assert found["jacobian"] == [{"x": 1.0}, {"x": 2.0}]
    assert found["jacobian_logvolume"] == pytest.approx(np.log(5) / 2)


def test_a_structured_jacobian_is_shown_in_index_notation(capsys):
    words = ["eval", "exp(x) * 2", "x=[0, 1]", "--jacobian", "--layout", "structured"]
    out = printed(capsys, *words)
    assert "jacobian x  d" in out
    found = json.loads(printed(capsys, *words, "--json"))["jacobian"]["x"]
    assert found["factors"] == [[[2.0, pytest.approx(2 * np.e)]]]
    assert found["notation"] in out


def test_json_holds_what_json_lacks(capsys):
    found = json.loads(printed(capsys, "eval", "[x, -x, y]", "x=inf", "y=nan", "--json"))
    assert found["value"] == ["Infinity", "-Infinity", "NaN"]
    found = json.loads(printed(capsys, "eval", "1j * x", "x=2", "--json"))
    assert found["value"] == {"real": 0.0, "imag": 2.0}


def test_values_are_expressions_or_files_of_a_dtype(capsys, tmp_path):
    np.save(tmp_path / "x.npy", np.arange(3, dtype=np.float32))
    out = printed(capsys, "trace", "x * y", f"x=@{tmp_path}/x.npy", "y=2 * linspace(0, 1, 3)")
    assert out.startswith("program(a: float32[3], b: float64[3])")
    assert "float32[2]" in printed(capsys, "trace", "x * 2", "x=[1, 2]", "--dtype", "float32")


def test_wrt_chooses_the_arguments(capsys):
    out = printed(capsys, "eval", "x * y", "x=3", "y=2", "--grad", "--wrt", "y")
    assert "grad y" in out
    assert "grad x" not in out


def test_programs_and_their_cost_are_shown(capsys):
    assert printed(capsys, "trace", "sin(x)", "x=1.2") == "program(a: float64[]) {\n  b: float64[] = sin(a)\n} -> (b)\n"
    assert "cos(a)" in printed(capsys, "trace", "sin(x)", "x=1.2", "--of", "grad")
    assert "np.sin(a)" in printed(capsys, "trace", "sin(x)", "x=1.2", "--numpy")
    assert json.loads(printed(capsys, "trace", "sin(x)", "x=1.2", "--json"))["equations"][0]["primitive"] == "sin"
    assert "da/dx = cos(x)" in printed(capsys, "explain", "sin(x)", "x=1.2")
    assert "flops" in printed(capsys, "explain", "sin(x)", "x=1.2", "--of", "hessian", "--layout", "structured")


def test_a_server_gives_the_same_answer(capsys):
    words = ["eval", "sum(exp(x))", "x=[1, 2]", "--grad", "--hessian", "--reproducible", "--json"]
    with start_server() as server:
        assert printed(capsys, *words, "--target", server.address) == printed(capsys, *words)
        words = ["explain", "sum(exp(x) * y)", "x=[1, 2]", "y=3", "--of", "jacobian", "--wrt", "x"]
        assert printed(capsys, *words, "--target", server.address) == printed(capsys, *words)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["evla", "x"], "needed a command among calibrate, eval, explain, load, serve, trace, got 'evla'; the nearest is eval"),
        (["eval", "x", "x=1", "--hesian"], "unrecognized arguments: --hesian; the nearest option is --hessian"),
        (["eval"], "the following arguments are required"),
        (["eval", "sinn(x)", "x=1"], "got 'sinn'; the nearest is sin\n  sinn(x)\n  ^^^^"),
        (["eval", "x @ y", "x=[1,2]", "y=[1,2,3]"], "  x @ y\n  ^^^^^"),
        (["eval", "x + y", "x=1"], "needed a value for y"),
        (["eval", "x", "x=1", "z=2"], "needed arguments among x, got z"),
        (["eval", "x", "x=y"], "needed a value, got 'y'"),
        (["eval", "x", "x"], "needed NAME=VALUE, got 'x'"),
        (["eval", "x", "x=@nowhere.npy"], "needed a file of NumPy"),
        (["eval", "x", "x=1", "--dtype", "flaot"], "needed a dtype such as float32"),
        (["eval", "x", "x=1", "--dtype", "U3"], "needed one of float64"),
        (["eval", "x", "x=1", "--grad", "--wrt", "y"], "needed arguments among x, got 'y'"),
        (["eval", "x", "x=[1,2]", "--grad"], "needed one scalar output"),
        (["eval", "x", "x=1", "--jvp", "1"], "needed NAME=TANGENT of x"),
        (["eval", "x", "x=1", "--jvp", "y=1"], "needed NAME=TANGENT of x"),
        (["explain", "x", "x=1", "--of", "everything"], "invalid choice: 'everything'"),
        (["explain", "x", "x=1", "--json", "--latex"], "not allowed with argument --json"),
        (["eval", "x", "x=1", "--jacobian", "--layout", "csr"], "invalid choice: 'csr'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_code_2(words, told, capsys):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err
    assert err.startswith("gradwire")


def test_help_has_a_line_for_each_command():
    done = run("--help")
    assert done.returncode == 0
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.startswith("  ")}
    assert {"calibrate", "eval", "explain", "serve", "trace"} <= set(lines)
    assert lines["eval"].endswith("Compute an expression and its derivatives")
    assert run("eval", "--help").returncode == 0
    assert run("sevre").returncode == 2


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "gradwire", "eval", " -x", "x=1"], capture_output=True, text=True, check=True)
    assert "value       -1" in done.stdout
