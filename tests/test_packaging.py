"""The distribution: what is imported when, what is public, what the wheel holds, what stands at the top of the tree."""

import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "gradwire": ROOT / "client",
    "gradwire_load": ROOT / "client",
    "gradwire_server": ROOT / "server",
    "gradwire_core": ROOT / "server",
    "gradwire_proto": ROOT / "proto",
}
TOP_LEVEL = {
    ".ci",
    ".gitignore",
    "LICENSE",
    "Makefile",
    "README.md",
    "bench",
    "client",
    "deploy",
    "docker-compose.yml",
    "docs",
    "proto",
    "pyproject.toml",
    "server",
    "tests",
}


def imported_by(statement):
    """The modules that a fresh interpreter holds after the statement."""
    script = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import gradwire", {"grpc", "google", "scipy", "numexpr", "opt_einsum", "gradwire_proto", "gradwire_server"}),
        ("import gradwire_core.builder, gradwire_core.check", {"grpc", "google", "scipy", "numexpr", "opt_einsum"}),
        ("import gradwire_core.engine", {"grpc", "google"}),
        ("import gradwire_proto.program, gradwire_proto.tensor", {"grpc"}),
        ("import gradwire_proto.evaluation, gradwire_proto.status", {"grpc"}),
        ("import gradwire_load.__main__", {"grpc", "hdrh", "prometheus_client", "numpy"}),
        ("import gradwire_server.worker", {"grpc", "uvloop", "prometheus_client"}),
    ],
)
def test_import_brings_no_more_than_is_needed(statement, unwanted):
    assert not imported_by(statement) & unwanted


def test_public_names_are_sorted_and_there():
    import gradwire

    assert gradwire.__all__ == sorted(gradwire.__all__, key=lambda name: (name.casefold(), name))
    assert not [name for name in gradwire.__all__ if not hasattr(gradwire, name)]
    assert set(gradwire.__all__) <= set(dir(gradwire))


def test_version_and_commands():
    assert version("gradwire") == project()["version"]
    (command,) = entry_points(group="console_scripts", name="gradwire")
    assert command.value == "gradwire.__main__:main"
    (serve,) = entry_points(group="gradwire.commands", name="serve")
    assert serve.value == "gradwire_server.__main__:main"
    (load,) = entry_points(group="gradwire.commands", name="load")
    assert load.value == "gradwire_load.__main__:main"
    assert callable(command.load())
    assert callable(serve.load())
    assert callable(load.load())


def test_wheel_holds_the_packages_and_nothing_else(tmp_path):
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        (license_text,) = [archive.read(name) for name in archive.namelist() if name.endswith("licenses/LICENSE")]
    sources = {
        path.relative_to(folder).as_posix()
        for package, folder in PACKAGES.items()
        for path in (folder / package).rglob("*")
        if path.suffix in {".py", ".pyi", ".toml", ".css", ".js"} or path.name == "py.typed"
    }
    assert sources <= held
    assert {name.split("/")[0] for name in held} == set(PACKAGES)
    assert {f"{package}/py.typed" for package in PACKAGES} <= held
    assert not [name for name in held if "__pycache__" in name]
    assert license_text == (ROOT / "LICENSE").read_bytes()


def test_nothing_else_stands_at_the_top():
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode != 0:
        pytest.skip("not a git checkout: what belongs to the project is not known")
    present = {path.split("/")[0] for path in listing.stdout.splitlines()}
    assert present <= TOP_LEVEL
    assert present >= TOP_LEVEL - {"bench"}


def test_no_module_lies_loose_in_an_import_root():
    assert not [path for root in set(PACKAGES.values()) for path in root.glob("*.py")]


def test_development_tools_are_pinned_exactly():
    extras = project()["optional-dependencies"]
    assert not [line for extra in ("test", "check", "containers") for line in extras[extra] if "==" not in line]


def test_tested_releases_are_allowed_ones():
    from packaging.requirements import Requirement

    lines = (ROOT / ".ci" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    tested = {pin.name.replace("_", "-").lower(): pin for line in lines if not line.startswith("#") for pin in [Requirement(line)]}
    extras = project()["optional-dependencies"]
    extras["needed"] = project()["dependencies"]
    declared = [Requirement(line) for name in ("needed", "server", "load", "jit") for line in extras[name]]
    assert set(tested) >= {needed.name.replace("_", "-").lower() for needed in declared}
    for needed in declared:
        (pin,) = tested[needed.name.replace("_", "-").lower()].specifier
        assert needed.specifier.contains(pin.version), needed


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
