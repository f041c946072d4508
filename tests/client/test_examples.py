"""The examples in the docstrings of the SDK run, and public names have one."""

import doctest
import importlib
import pkgutil

import pytest

import gradwire

MODULES = ["gradwire", *(f"gradwire.{item.name}" for item in pkgutil.iter_modules(gradwire.__path__) if item.name != "__main__")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


@pytest.mark.parametrize("name", [name for name in gradwire.__all__ if not name.endswith("Error")])
def test_public_names_have_an_example(name):
    text = getattr(gradwire, name).__doc__
    assert text
    assert "Example:" in text or name in {"Capabilities", "StructuredJacobian"}
