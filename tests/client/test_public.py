"""The public face: which names there are, and what importing them costs."""

import inspect
import subprocess
import sys

import pytest

import gradwire
from gradwire._aio import AsyncClient
from gradwire._client import Client
from gradwire._embedded import EMBEDDED
from gradwire_core import errors

FUNCTIONS = {
    "evaluate", "explain", "grad", "hessian", "hvp", "jacobian", "jacobian_det", "jacobian_logvolume", "jacobian_slogdet", "jvp",
    "trace", "value_and_grad", "vjp", "vmap",
}  # fmt: skip
IMPORTS = {"from_expression", "from_sympy"}
CONTROL = {"cond", "custom_derivative", "fori_loop", "map", "scan", "stop_gradient"}
RECORDS = {"AsyncClient", "Capabilities", "Client", "ClientConfig", "Program", "StructuredJacobian"}
ERRORS = {name for name, item in vars(errors).items() if isinstance(item, type) and issubclass(item, Exception)}


def test_public_names_are_these():
    assert set(gradwire.__all__) == FUNCTIONS | CONTROL | IMPORTS | RECORDS | ERRORS | {"connect", "special", "zeros_outside"}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'gradient'"):
        _ = gradwire.gradient


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import gradwire", {"grpc", "scipy", "numexpr", "opt_einsum", "google", "numpy"}),
        ("import gradwire; gradwire.trace(lambda x: x * x, 1.0)", {"grpc", "scipy", "numexpr", "opt_einsum", "google"}),
        ("import gradwire; gradwire.grad(lambda x: x * x)(1.0)", {"grpc", "google"}),
    ],
)
def test_nothing_is_imported_before_it_is_needed(statement, unwanted):
    script = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & unwanted


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_functions_are_the_same_on_every_face(name):
    one, two, three = getattr(EMBEDDED, name), getattr(Client, name), getattr(AsyncClient, name)
    assert getattr(gradwire, name) == one
    own = inspect.signature(one)
    for other in (two, three):
        signature = inspect.signature(other)
        assert signature.replace(parameters=list(signature.parameters.values())[1:]) == own
        assert other.__doc__ == one.__doc__
    assert "Example:" in one.__doc__


@pytest.mark.parametrize("name", ["capabilities", "register", "close"])
def test_clients_differ_only_in_awaiting(name):
    one, two = getattr(Client, name), getattr(AsyncClient, name)
    assert inspect.signature(one) == inspect.signature(two)
    assert one.__doc__ == two.__doc__
    assert inspect.iscoroutinefunction(two)
    assert not inspect.iscoroutinefunction(one)
