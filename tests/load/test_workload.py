"""What is sent is what the scenario asks for, and a wrong answer is found."""

import numpy as np
import pytest

from gradwire_core.errors import ArgumentError
from gradwire_core.transforms import Transform
from gradwire_load.programs import NAMED
from gradwire_load.scenario import read_scenario
from gradwire_load.workload import Checker, prepare
from gradwire_proto.evaluation import encode_result
from gradwire_proto.tensor import encode_tensor
from gradwire_proto.v1 import differentiation_service_pb2 as pb

HEAD = "[arrivals]\nrate = 1\n"


def prepared(text):
    return prepare(read_scenario(HEAD + text, "mine"))


def small(name):
    """The sizes of a program, such that it computes nothing for long."""
    return {size: min(length, 6) for size, length in NAMED[name].sizes.items()}


def answer(results):
    response = pb.EvaluateResponse()
    for output in results:
        response.results.add(results=[encode_result(np.asarray(item)) for item in output])
    return response


@pytest.mark.parametrize("name", NAMED)
def test_every_program_has_a_value_and_a_derivative(name):
    sizes = ", ".join(f"{size} = {length}" for size, length in small(name).items())
    (item,) = prepared(f'[[mix]]\nprogram = "{name}"\nsizes = {{ {sizes} }}\nwant = ["value", "jacobian"]\nvariants = 1')
    value, jacobian = Checker([item]).expected(0, 0)
    assert np.isfinite(value[0]).all()
    assert len(jacobian) == len(NAMED[name].wrt)
    assert all(part.shape[: value[0].ndim] == value[0].shape for part in jacobian)


def test_a_request_says_what_the_scenario_does():
    text = '[[mix]]\nexpression = "x * sin(y)"\ninputs = { x = [3], y = [3] }\nwant = ["value", "jvp", "vjp"]\nwrt = ["y", "x"]'
    (item,) = prepared(text)
    assert item.outputs[1].transforms == (Transform("jvp", (1, 0)),)
    assert len(item.requests) == 4
    inline, named = item.requests[0].inline, item.requests[0]
    assert named.inline is inline
    assert inline.inline is None
    request, whole = (pb.EvaluateRequest.FromString(data.data) for data in (named, inline))
    assert request.program_name == f"programs/{item.program.digest}"
    assert whole.HasField("program")
    assert [len(output.seeds) for output in request.outputs] == [0, 2, 1]
    assert request.inputs == whole.inputs
    assert [list(tensor.shape) for tensor in request.inputs] == [[3], [3]]


def test_variants_differ_and_a_seed_repeats():
    text = '[[mix]]\nprogram = "rosenbrock"\nsizes = { n = 5 }'
    (one,), (other,) = prepared(text), prepared(text)
    assert len({request.data for request in one.requests}) == 4
    assert one.requests == other.requests


def test_large_tensors_are_apart_for_a_session():
    (item,) = prepared('[[mix]]\nprogram = "elementwise"\nsizes = { n = 200_000 }\nvariants = 1')
    request = item.requests[0]
    assert [len(data) for data in request.apart] == [1_600_000]
    assert len(request.short) < 1000
    assert request.nbytes > 1_600_000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('program = "rosenbrok"', "rosenbrok.program: needed one of"),
        ('program = "rosenbrock"\nsizes = { m = 3 }', "needed sizes among n, got m"),
        ('program = "rosenbrock"\nwrt = ["y"]', "needed arguments among x, got 'y'"),
        ('expression = "x + y"\ninputs = { x = [1] }', "needed shapes of x, y, got x"),
    ],
)
def test_what_cannot_be_computed_is_refused(text, said):
    with pytest.raises(ArgumentError, match=said):
        prepared(f"[[mix]]\n{text}")


# -- checks --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def checked():
    (item,) = prepared('[[mix]]\nname = "it"\nprogram = "rosenbrock"\nsizes = { n = 5 }\nwant = ["value", "grad"]')
    checker = Checker([item])
    return checker, [list(map(np.copy, output)) for output in checker.expected(0, 1)]


def test_the_right_answer_has_no_problem(checked):
    checker, right = checked
    assert checker.find_problem(0, 1, answer(right).SerializeToString()) is None
    right[1][0] *= 1 + 1e-12
    assert checker.find_problem(0, 1, answer(right).SerializeToString()) is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda right: right[1][0].__setitem__(2, right[1][0][2] * 1.001 + 1.0),
        lambda right: right[0].__setitem__(0, right[0][0] + np.nan),
        lambda right: right[1].__setitem__(0, right[1][0].astype(np.float32)),
        lambda right: right[1].__setitem__(0, right[1][0][:-1]),
        lambda right: right[1][0].__setitem__(0, np.inf),
        lambda right: right.pop(),
    ],
)
def test_a_wrong_answer_is_told(checked, spoil):
    checker, right = checked
    spoil(right)
    assert checker.find_problem(0, 1, answer(right).SerializeToString()).startswith("it")


def test_the_answer_to_another_variant_is_wrong(checked):
    checker, right = checked
    assert checker.find_problem(0, 0, answer(right).SerializeToString()) is not None


@pytest.mark.parametrize("layout", ["structured", "sparse"])
def test_layouts_are_compared(layout):
    (item,) = prepared(f'[[mix]]\nprogram = "diffusion"\nsizes = {{ n = 6 }}\nwant = ["jacobian"]\nlayout = "{layout}"')
    checker = Checker([item])
    dense = pb.EvaluateResponse()
    dense.results.add(results=[pb.Result(dense=encode_tensor(np.eye(6)))])
    assert checker.find_problem(0, 0, dense.SerializeToString()) is not None


def test_an_input_is_drawn_from_its_range():
    (item,) = prepared('[[mix]]\nexpression = "x"\ninputs = { x = { shape = [1000], low = 2, high = 3 } }')
    assert 2.0 <= item.inputs[0][0].min() <= item.inputs[0][0].max() <= 3.0
