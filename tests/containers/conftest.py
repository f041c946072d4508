"""The engine, the image under test, and the tools that look at what deploy/ holds.

`make containers` brings them all. Without them a test is skipped, and says what it needs; there it fails instead.
"""

from __future__ import annotations

import os
import shutil
import sysconfig

import pytest

from tests.containers.engine import ROOT, Engine, build

IMAGE = "gradwire"
_IS_EXPECTED = "BASE_IMAGE" in os.environ  # as .ci/engine tells


def missing(what):
    """Skip the test, for something is not there; fail where it was promised."""
    (pytest.fail if _IS_EXPECTED else pytest.skip)(f"needs {what}, which is not here: make containers")


@pytest.fixture(scope="session")
def needs():
    """Give a Python package, or the path of a command, or ask for the rights of root; or skip."""

    def find(name, kind="command"):
        if kind == "package":
            if _IS_EXPECTED:
                return __import__(name)
            return pytest.importorskip(name, reason=f"needs the package {name}, which is not here: make containers")
        if kind == "right":
            if os.geteuid():
                pytest.skip(f"needs {name}: make containers, as root")
            return _IS_EXPECTED or missing(name)
        if name == "helm" and (ROOT / ".cache" / "helm").exists():
            return str(ROOT / ".cache" / "helm")
        path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
        return shutil.which(name, path=path) or missing(f"the command {name}")

    return find


@pytest.fixture(scope="session")
def engine(needs):
    if not _IS_EXPECTED:
        missing("a container engine")
    needs("docker", "package")
    with Engine() as found:
        yield found


@pytest.fixture(scope="session")
def image(engine, tmp_path_factory):
    """The image, built from what the project holds and nothing else."""
    build(tmp_path_factory.mktemp("checkout") / "gradwire", IMAGE)
    return IMAGE


@pytest.fixture
def run(engine, image):
    """Start containers that are gone after the test."""
    with engine.running(image) as start:
        yield start
