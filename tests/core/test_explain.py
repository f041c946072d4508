"""Derivations: what a lecturer would write for small programs, numbers for random ones, and how long ones are cut."""

from __future__ import annotations

import json
import re
import textwrap

import numpy as np
import pytest
from hypothesis import given

from gradwire_core.builder import Builder
from gradwire_core.engine import Output
from gradwire_core.errors import ArgumentError, ShapeError
from gradwire_core.explain import explain
from gradwire_core.explain.deriving import MOST_STEPS, derive
from gradwire_core.explain.text import show
from gradwire_core.ops import PRIMITIVES
from gradwire_core.ops.shaping import embed, pad_with_zeros
from gradwire_core.program import Program
from gradwire_core.testing import interpret
from gradwire_core.transforms import Transform, jacobian
from gradwire_core.types import Dtype, TensorType
from tests.core.evaluation import evaluate
from tests.core.strategies import examples, programs


def traced(function, *shapes, dtype=Dtype.FLOAT64) -> Program:
    with Builder().tracing() as builder:
        results = function(*[builder.input(TensorType(dtype, shape)) for shape in shapes])
        return builder.build([builder.lift(item) for item in (results if isinstance(results, tuple) else (results,))])


def derived(function, *shapes, names=("x", "w")) -> str:
    """The text of a derivation, without the plan."""
    text = explain(traced(function, *shapes), names=names[: len(shapes)])
    return text[: text.index("\n\nplan: ")]


def assert_derives(text: str, expected: str) -> None:
    assert re.sub(r"  +(\w+ rule|linear|constant)$", r"  \1", text, flags=re.MULTILINE) == textwrap.dedent(expected).strip()


# -- as a lecturer would write it ------------------------------------------------------------------------------------------------


def test_the_product_rule():
    assert_derives(
        derived(lambda x: x * np.sin(x), (3,)),
        """
        inputs
          x[i]: float64[3]
        steps
          1. a[i] = sin(x[i])  chain rule
               partial  da[i]/dx[i'] = delta[i,i'] cos(x[i])
          2. b[i] = x[i] a[i]  product rule
               partial  db[i]/dx[i'] = delta[i,i'] a[i]
               partial  db[i]/da[i'] = delta[i,i'] x[i]
               total    db[i]/dx[i'] = delta[i,i'] (a[i] + cos(x[i]) x[i])  (2 paths, through x and a)
        outputs: b
        paths from x to b: 2
          x -> b
               delta[i,i'] a[i]
          x -> a -> b
               delta[i,i'] x[i] cos(x[i])
          their sum: db[i]/dx[i'] = delta[i,i'] (a[i] + cos(x[i]) x[i])
        """,
    )


def test_the_quotient_rule():
    assert_derives(
        derived(lambda x: x / (1 + x * x), ()),
        """
        inputs
          x: float64[]
        steps
          1. a = x^2  product rule
               partial  da/dx = 2 x
          2. b = 1 + a  linear
               partial  db/da = 1
               total    db/dx = 2 x  (2 paths, through a)
          3. c = x / b  quotient rule
               partial  dc/dx = 1 / b
               partial  dc/db = -c / b
               total    dc/dx = 1 / b - 2 c^2  (3 paths, through x and b)
        outputs: c
        paths from x to c: 3
          x -> c
               1 / b
          x -> a -> b -> c
               -c^2
          x -> a -> b -> c
               -c^2
          their sum: dc/dx = 1 / b - 2 c^2
        """,
    )


def test_a_layer():
    assert_derives(
        derived(lambda x, w: np.sum(np.tanh(x @ w.T)), (3, 4), (2, 4)),
        """
        inputs
          x[i,j]: float64[3,4]
          w[k,j]: float64[2,4]
        steps
          1. a[i,k] = sum_j x[i,j] w[k,j]  product rule
               partial  da[i,k]/dx[i',j] = delta[i,i'] w[k,j]
               partial  da[i,k]/dw[k',j] = delta[k,k'] x[i,j]
          2. b[i,k] = tanh(a[i,k])  chain rule
               partial  db[i,k]/da[i',k'] = delta[i,i'] delta[k,k'] (1 - b[i,k]^2)
               total    db[i,k]/dx[i',j] = delta[i,i'] w[k,j] (1 - b[i,k]^2)
               total    db[i,k]/dw[k',j] = delta[k,k'] x[i,j] (1 - b[i,k]^2)
          3. c = sum_{i,k} b[i,k]  linear
               partial  dc/db[i,k] = 1
               total    dc/dx[i,j] = sum_k w[k,j] (1 - b[i,k]^2)
               total    dc/dw[k,j] = sum_i x[i,j] (1 - b[i,k]^2)
        outputs: c
        paths from x to c: 1
          x -> a -> b -> c
               sum_k (1 - b[i,k]^2) w[k,j]
        paths from w to c: 1
          w -> a -> b -> c
               sum_i (1 - b[i,k]^2) x[i,j]
        """,
    )


def test_softmax():
    text = derived(lambda x: np.exp(x) / np.sum(np.exp(x)), (3,))
    assert "3. c[i] = a[i] / b" in text
    assert "their sum: dc[i]/dx[i'] = delta[i,i'] c[i] - c[i] c[i']" in text
    assert "dc/dx[i] = a[i] / b" in derived(lambda x: np.log(np.sum(np.exp(x))), (3,))


def test_a_window():
    text = derived(lambda x, w: w[0] * x[:-1] + w[1] * x[1:], (5,), (2,))
    assert "b[k] = w[1] x[k+1]" in text
    assert "db[k]/dw[j] = delta[1,j] x[k+1]" in text
    assert "db[k]/dx[i] = delta[k+1,i] w[1]" in text
    convolved = derived(np.convolve, (5,), (2,))
    assert "a[k] = sum_{i,j} delta[k,i+j] x[i] w[j]" in convolved
    assert "da[k]/dx[i] = sum_j delta[k,i+j] w[j]" in convolved


@pytest.mark.parametrize(
    ("function", "shapes", "lines"),
    [
        (np.linalg.inv, [(2, 2)], ["da[k,l]/dx[i,j] = -a[k,i] a[j,l]"]),
        (lambda x: np.linalg.slogdet(x)[1], [(2, 2)], ["db/dx[i,j] = inv(x)[j,i]"]),
        (np.cumsum, [(3,)], ["a[j] = sum_i [i <= j] x[i]", "da[j]/dx[i] = [i <= j]"]),
        (lambda x: x.T, [(2, 3)], ["a[j,i] = x[i,j]", "da[j,i]/dx[i',j'] = delta[i,i'] delta[j,j']"]),
        (lambda x: x.reshape(6), [(2, 3)], ["a[3i+j] = x[i,j]", "da[k]/dx[i,j] = delta[k,3i+j]"]),
        (lambda x: x.reshape(2, 3), [(6,)], ["a[j,k] = x[3j+k]", "da[j,k]/dx[i] = delta[3j+k,i]"]),
        (lambda x: x[::-1], [(4,)], ["a[j] = x[3-j]", "da[j]/dx[i] = delta[3-j,i]"]),
        (lambda x, w: np.concatenate([x, w]), [(3,), (2,)], ["a[i] = x[i]  for i < 3", "a[j+3] = w[j]  for j < 2"]),
        (lambda x: pad_with_zeros(x, (1,), (1,), (0,)), [(3,)], ["a[i+1] = x[i]  for i < 3, else 0"]),
        (lambda x: x[np.array([2, 0, 2])], [(3,)], ["a[j] = x[C1[j]]", "da[j]/dx[i] = delta[C1[j],i]", "C1 = [2 0 2]"]),
        (lambda x: np.max(x, 0), [(3, 2)], ["a[j] = max_i x[i,j]", "[x[i,j] = a[j]] / (sum_i' [x[i',j] = a[j]])"]),
        (lambda x: np.where(x > 0, x, 0.0), [(3,)], ["b[i] = where(a[i], x[i], 0)", "db[i]/dx[i'] = delta[i,i'] a[i]"]),
        (np.maximum, [(3,), (3,)], ["da[i]/dw[i'] = delta[i,i'] (0.5 [w[i] = x[i]] + [w[i] > x[i]])"]),
        (
            lambda x: np.minimum(np.maximum(x, 0), 1),
            [()],
            ["= 0.5 (0.5 [x = 0] + [x > 0]) [a = 1] + 0.5 [a < 1] [x = 0] + [a < 1] [x > 0]"],
        ),
        (lambda x: 3.0 - 2 * x**3, [()], ["a = x^3", "power rule", "da/dx = 3 x^2", "dc/dx = -6 x^2"]),
        (lambda x, w: x @ w @ x, [(3,), (3, 3)], ["b = sum_j a[j] x[j]", "db/dw[i,j] = x[i] x[j]"]),
        (lambda x: np.outer(x, x), [(3,)], ["a[i,j] = x[i] x[j]", "da[i,j]/dx[i'] = delta[i,i'] x[j] + delta[j,i'] x[i]"]),
        (lambda x: embed(x, (0, 0)), [(2,)], ["a[i,j] = delta[i,j] x[i]", "da[i,j]/dx[i'] = delta[i,i'] delta[i,j]"]),
    ],
)
def test_what_equations_become(function, shapes, lines):
    text = derived(function, *shapes)
    for line in lines:
        assert line in text, text


def test_values_are_named_as_the_program_prints_unless_inputs_have_names():
    program = traced(lambda x: np.sin(np.cos(x)), (2,))
    assert str(program).splitlines()[2].startswith("  c: float64[2] = sin(b)")
    assert "2. c[i] = sin(b[i])" in explain(program)
    assert "2. b[i] = sin(a[i])" in explain(program, names=["x"])
    crowded = traced(lambda *xs: sum(xs[1:], xs[0]), *[(2,)] * 12)
    assert "a[x]: float64[2]" in explain(crowded)
    assert re.findall(r"^  \d+\. (\w+)", explain(crowded, names=["x", "a"]), re.MULTILINE)[-1] not in "ijklmn"


# -- numbers ---------------------------------------------------------------------------------------------------------------------


def checked(program: Program, arrays: list[np.ndarray]) -> None:
    """The data of a derivation computes the values, and its formulas the Jacobians, as totals and as sums over paths."""
    (found,) = json.loads(json.dumps(explain(program, format="data"), allow_nan=False))["derivations"]
    evaluation = evaluate(found, arrays)
    argnums = tuple(index for index, type in enumerate(program.input_types) if type.dtype.is_inexact)
    dense = iter(interpret(jacobian(program, argnums), arrays))
    totals = {(total["of"], total["by"]): total for step in found["steps"] for total in step["totals"]}
    paths = {(item["of"], item["by"]): item for item in found["paths"]}
    for name, value in zip(found["outputs"], interpret(program, arrays), strict=True):
        np.testing.assert_allclose(evaluation.arrays[name], value, rtol=1e-9, atol=1e-9)
        for index in argnums:
            key, needed = (name, found["inputs"][index]["name"]), next(dense)
            total, way = totals.get(key), paths.get(key, {"paths": []})
            if total is not None and total["formula"] is not None:
                given = evaluation.derivative(total["formula"]).reshape(needed.shape)
                np.testing.assert_allclose(given, needed, rtol=1e-8, atol=1e-8)
            contributions = [path["contribution"] for path in way["paths"]]
            if contributions and None not in contributions:
                given = sum(evaluation.derivative(item).reshape(needed.shape) for item in contributions)
                np.testing.assert_allclose(given, needed, rtol=1e-8, atol=1e-8)


@examples(12)
@given(programs(operations=5))
def test_the_formulas_are_the_jacobian(case):
    names = {id(var) for var in case.program.inputs}
    if not any(id(output) in names for output in case.program.outputs):
        checked(case.program, case.arrays)


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (lambda x, w: np.sum(np.tanh(x @ w.T)), [(3, 4), (2, 4)]),
        (lambda x: np.exp(x) / np.sum(np.exp(x)), [(4,)]),
        (lambda x: np.linalg.solve(x @ x.T + np.eye(3), x)[1:], [(3, 3)]),
        (lambda x, w: np.convolve(x, w, "valid") ** 2, [(5,), (2,)]),
        (lambda x: np.concatenate([x, 2 * x[:2]])[::-1] * x[0], [(4,)]),
        (lambda x: np.logaddexp(x[1:], x[:-1]).reshape(3, 1) / np.max(x), [(4,)]),
        (lambda x: x.reshape(6)[::2] * x.reshape(3, 2)[:, 1], [(2, 3)]),
        (lambda x: (1 / (1 + np.exp(-x))) * np.power(x * x, 1.5), [(3,)]),
    ],
)
def test_the_formulas_of_small_programs_are_the_jacobian(function, shapes):
    rng = np.random.default_rng(0)
    checked(traced(function, *shapes), [rng.normal(size=shape) for shape in shapes])


def test_gathers_by_inputs_are_the_jacobian():
    with Builder().tracing() as builder:
        index = builder.input(TensorType(Dtype.INT64, (3,)))
        x = builder.input(TensorType(Dtype.FLOAT64, (4,)))
        program = builder.build([np.sin(x)[index] * x[index]])
    text = explain(program, names=["i", "x"])
    assert "b[l] = a[i[l]]" in text
    assert "total    db[l]/dx[k] = delta[i[l],k] cos(x[i[l]])" in text
    checked(program, [np.array([2, 0, 2]), np.random.default_rng(0).normal(size=4)])


def test_gathers_by_computed_numbers_are_the_jacobian():
    rows = np.array([[1, 0, 1], [2, 2, 0]])
    checked(traced(lambda x: np.take_along_axis(np.exp(x), rows, 1) * 2, (2, 3)), [np.random.default_rng(0).normal(size=(2, 3))])


# -- paths -----------------------------------------------------------------------------------------------------------------------


def brute_paths(program: Program, output: object) -> int:
    """The number of ways from an output back to the first input."""
    producers = {result: equation for equation in program.equations for result in equation.results}
    if output is program.inputs[0]:
        return 1
    return sum(brute_paths(program, operand) for operand in producers[output].operands) if output in producers else 0


@pytest.mark.parametrize("seed", range(8))
def test_paths_are_counted_as_by_hand(seed):
    rng = np.random.default_rng(seed)
    with Builder().tracing() as builder:
        values = [builder.input(TensorType(Dtype.FLOAT64, (2,))) for _ in range(2)]
        for _ in range(9):
            one, other = (values[index] for index in rng.integers(0, len(values), 2))
            values.append(one * other if rng.random() < 0.5 else np.sin(one) - other)
        program = builder.build([values[-1]])
    count = brute_paths(program, program.outputs[0])
    found = derive(program)
    assert sum(paths.count for paths in found.paths if paths.by == "a") == count
    for paths in found.paths:
        assert not paths.paths or len(paths.paths) == paths.count


@pytest.mark.parametrize("count", [15, 60, 500])
def test_paths_beyond_number_are_counted_exactly(count):
    def function(x):
        for _ in range(count):
            x = x * np.sin(x)
        return x

    found = derive(traced(function, (3,)))
    assert [paths.count for paths in found.paths] == [2**count]
    text = explain(traced(function, (3,)))
    assert (f": {2**count}" if count < 99 else "about 10^151") in text
    data = explain(traced(function, (3,)), format="data")
    (paths,) = data["derivations"][0]["paths"]
    assert paths["count"] == 2**count
    json.dumps(data)


def test_a_count_that_json_readers_refuse_is_told_by_its_logarithm():
    def function(x):
        for _ in range(14_000):
            x = x * x
        return x

    (paths,) = explain(traced(function, ()), format="data")["derivations"][0]["paths"]
    assert paths["count"] is None
    assert paths["log2_count"] == 14_000


# -- long programs, and all primitives -------------------------------------------------------------------------------------------


def test_a_long_program_is_cut_and_says_so():
    def function(x):
        for _ in range(2000):
            x = np.sin(x) + x
        return x

    program = traced(function, (3,))
    text = explain(program)
    assert f"... {4_000 - MOST_STEPS} more equations" in text
    assert "outputs: one that is left out" in text
    assert len(derive(program).steps) == MOST_STEPS
    assert "more equations are left out" in explain(program, format="latex")
    assert explain(program, format="data")["derivations"][0]["equations_left_out"] == 4_000 - MOST_STEPS


def test_what_is_too_long_is_told_by_its_equations():
    text = explain(traced(np.prod, (8,)))
    assert re.search(r"total    db/da by \d+ equations", text)


@pytest.mark.parametrize("part", range(4))
def test_every_primitive_can_be_explained(part):
    for primitive in list(PRIMITIVES.values())[part::4]:
        for sample in list(primitive.samples(np.random.default_rng(0)))[:1]:
            builder = Builder()
            operands = [builder.input(TensorType.of(np.asarray(array))) for array in sample.operands]
            program = builder.build(builder.emit(primitive, operands, sample.params))
            assert primitive.name in json.dumps(explain(program, format="data"), allow_nan=False)
            assert_is_latex(explain(program, format="latex"))


def test_sub_programs_are_told_apart_from_equations():
    sample = next(iter(PRIMITIVES["scan"].samples(np.random.default_rng(0))))
    builder = Builder()
    operands = [builder.input(TensorType.of(np.asarray(array))) for array in sample.operands]
    text = explain(builder.build(builder.emit(PRIMITIVES["scan"], operands, sample.params)))
    assert "derivative of scan" in text
    assert "by the equations of its sub-programs" in text


# -- what is asked ---------------------------------------------------------------------------------------------------------------


def test_asked_derivatives_are_given_with_their_shapes_and_patterns():
    program = traced(lambda x, w: x @ w.T, (3, 4), (2, 4))
    text = explain(program, [Output((Transform("jacobian", (0,)),))], names=["x", "w"])
    assert "jacobian, from da/dx: float64[3,2,3,4]" in text
    assert "da[i,k]/dx[i',j] = delta[i,i'] w[k,j]" in text
    assert "1 term of 8 numbers, for 72 entries" in text
    assert re.search(r"^    da\[i,j\]/dx\[i,k\] = A\[(j,k|k,j)\]$", text, re.MULTILINE)
    assert "da[i,k]/dw" not in text.split("steps")[1].split("outputs")[0].replace("partial", "")
    (found,) = explain(program, [Output((Transform("jacobian", (0,)),))], format="data")["derivations"]
    assert [asked["shape"] for asked in found["asked"]] == [[3, 2, 3, 4]]


def test_a_hessian_is_the_jacobian_of_the_gradient():
    program = traced(lambda x: np.sum(x * np.exp(x)), (4,))
    outputs = [Output(), Output((Transform("grad"),)), Output((Transform("hessian"),), "structured")]
    data = explain(program, outputs, format="data", names=["x"])
    assert [found["of"] for found in data["derivations"]] == ["", "grad"]
    (asked,) = data["derivations"][1]["asked"]
    assert asked["what"] == "hessian"
    assert asked["shape"] == [4, 4]
    assert asked["derivative"]["formula"]["text"].startswith("dc[i]/dx[i'] = delta[i,i'] (")
    assert asked["derivative"]["stored_numbers"] == 4
    assert "grad, from dc/dx: float64[4]" in explain(program, outputs, names=["x"])


def test_the_hessian_of_a_factorization_is_small():
    program = traced(lambda x, w: np.sum((1.0 - x @ w.T) ** 2), (50, 3), (40, 3))
    text = explain(program, [Output((Transform("hessian"),), "structured")], names=["x", "w"])
    assert re.search(r"/dx\[i',j'\] = 2 delta\[i,i'\] sum_k w\[k,j'?\] w\[k,j'?\]$", text, re.MULTILINE)
    assert "structured" in text.splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "shape"), [("jvp", [3]), ("vjp", [3]), ("jacobian_det", []), ("jacobian_slogdet", []), ("jacobian", [3, 3])]
)
def test_every_transform_is_explained(name, shape):
    program = traced(np.sin, (3,))
    (found,) = explain(program, [Output((Transform(name),))], format="data")["derivations"]
    assert [asked["shape"] for asked in found["asked"]] == [shape]
    batched = Output((Transform("vmap", (), (0,), 5), Transform(name)))
    assert "float64[5,3]" in explain(program, [batched] if name == "jacobian" else [Output((Transform("vmap", (), (0,), 5),))])


def test_a_derivative_without_paths_is_zero():
    program = traced(lambda x, w: np.sin(x), (3,), (2,))
    outputs = [Output((Transform("jacobian", (1,)),))]
    assert "jacobian, from da/dw: float64[3,2]\n  zero" in explain(program, outputs, names=["x", "w"])
    assert r"\frac{\mathrm{d} a}{\mathrm{d} w} &= 0" in explain(program, outputs, names=["x", "w"], format="latex")


def test_outputs_that_are_inputs_or_constants():
    program = traced(lambda x, w: (x, np.float64(2.0), np.sin(w)), (3,), (2,))
    text = explain(program, [Output((Transform("jacobian"),))], names=["x", "w"])
    assert "outputs: x, a constant, a" in text
    assert "jacobian, from dx/dx: float64[3,3]\n  dx[i]/dx[i'] = delta[i,i']\n" in text
    assert text.count("\n  zero") == 2


def test_what_does_not_fit_is_refused():
    with pytest.raises(ArgumentError, match="explain: needed a format among text, latex, data, got 'html'; choose one"):
        explain(traced(np.sin, (3,)), format="html")
    with pytest.raises(ShapeError):
        explain(traced(np.sin, (3,)), [Output((Transform("grad"),))])
    with pytest.raises(ArgumentError, match="explain: needed at most 1 distinct names of inputs, got 2; name each input once"):
        explain(traced(np.sin, (3,)), names=["x", "y"])
    with pytest.raises(ArgumentError, match="explain: needed names of inputs such as x or x_1, got 'a b'; use letters, digits"):
        explain(traced(np.sin, (3,)), names=["a b"])


def test_the_plan_is_told():
    program = traced(lambda x: np.sum(np.sin(x)), (3,))
    assert re.search(r"plan: \d+ steps, [\d.e+]+ flops, peak memory \d+ B", explain(program))
    assert explain(program, [Output((Transform("grad"),))], format="data")["plan"]["flops"] > 0


# -- LaTeX -----------------------------------------------------------------------------------------------------------------------

COMMANDS = frozenset({
    "arccos", "arcsin", "arctan", "begin", "cdot", "cos", "cosh", "delta", "end", "exp", "frac", "ge", "in", "infty", "land",
    "le", "left", "log", "lor", "mathbb", "mathrm", "max", "min", "ne", "operatorname", "paragraph", "partial", "prod",
    "quad", "right", "sin", "sinh", "sqrt", "sum", "tan", "tanh", "text", "theta", "times", "to",
})  # fmt: skip


def assert_is_latex(text: str) -> None:
    """Braces, environments and brackets that grow are closed; all commands are those of LaTeX and amsmath."""
    unescaped = re.sub(r"\\[_&%$#{}]", "", text)
    depth = 0
    for letter in unescaped:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        assert depth >= 0
    assert depth == 0
    assert unescaped.count(r"\left") == unescaped.count(r"\right") + unescaped.count(r"\leftarrow")
    assert set(re.findall(r"\\([A-Za-z]+)", unescaped)) <= COMMANDS
    stack: list[str] = []
    for verb, name in re.findall(r"\\(begin|end)\{([a-z*]+)\}", unescaped):
        assert verb == "begin" or stack.pop() == name
        if verb == "begin":
            stack.append(name)
    assert not stack
    for row in re.findall(r"\\begin\{align\*\}\n(.*?)\n\\end\{align\*\}", unescaped, re.DOTALL):
        assert all("&" in line for line in row.split("\\\\\n"))


def test_a_layer_as_latex():
    text = explain(traced(lambda x, w: np.sum(np.tanh(x @ w.T)), (3, 4), (2, 4)), names=["x", "weights"], format="latex")
    assert r"a_{ik} &= \sum_{j} x_{ij} \, \mathrm{weights}_{kj} && \text{product rule} \\" in text
    assert r"\frac{\partial a_{ik}}{\partial x_{i'j}} &= \delta_{ii'} \, \mathrm{weights}_{kj}" in text
    assert r"\frac{\mathrm{d} c}{\mathrm{d} x_{ij}} &= \sum_{k} \mathrm{weights}_{kj} \, \left(1 - b_{ik}^{2}\right)" in text
    assert_is_latex(text)


@examples(8)
@given(programs(operations=5))
def test_random_programs_are_latex(case):
    assert_is_latex(explain(case.program, format="latex", names=["x_1", "theta", "z"][: len(case.arrays)]))


def test_derivatives_that_are_asked_for_as_latex():
    program = traced(lambda x: np.sum(np.exp(x) * x[::-1]), (4,))
    text = explain(program, [Output((Transform("hessian"),)), Output((Transform("grad"),))], names=["x"], format="latex")
    assert r"\paragraph{grad}" in text
    assert r"&& \text{hessian}" in text
    assert r"&& \text{grad}" in text
    assert_is_latex(text)


def test_a_formula_shows_where_it_stands():
    found = derive(traced(lambda x: pad_with_zeros(x, (1,), (1,), (0,)) * 1e-9, (3,)))
    assert [show(made) for made in found.steps[0].formulas] == ["b[i+1] = a[i]"]
