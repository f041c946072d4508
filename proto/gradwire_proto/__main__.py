"""Generate `gradwire_proto/v1` from the .proto files: `python -m gradwire_proto [--check]`.

The pinned generator demands a protobuf older than the one gradwire runs with, so it lives in an environment of its own, which
is made on first use in `.cache/` of the repository. Generated code demands at least the runtime of its generator: the pin is
the lowest supported gRPC. The service alone gets gRPC stubs; the other files have messages only.

Exit codes: 0, done or fresh; 1, `--check` found committed files that differ; 2, the generator cannot be installed here.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import venv
from importlib import metadata
from pathlib import Path

REQUIREMENTS = ("grpcio-tools==1.71.2", "mypy-protobuf==3.7.0", "protobuf==5.29.6")
PACKAGE = Path(__file__).resolve().parent
SOURCES = PACKAGE.parent
CACHE = SOURCES.parent / ".cache" / "-".join(("protoc", *(item.partition("==")[2] for item in REQUIREMENTS)))
PATTERNS = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")


def generator() -> Path:
    """Return a Python that has the pinned generator: this one, or that of an environment in the cache."""
    try:
        if all(metadata.version(name) == version for name, _, version in (item.partition("==") for item in REQUIREMENTS)):
            return Path(sys.executable)
    except metadata.PackageNotFoundError:
        pass
    python = CACHE / "bin" / "python"
    ready = CACHE / "ready"
    if not ready.exists():
        venv.create(CACHE, clear=True, with_pip=False)  # a bare Debian has no pip to put into it
        subprocess.run(
            [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--only-binary=:all:", *REQUIREMENTS], check=True
        )
        ready.touch()
    return python


def generate(python: Path, target: Path) -> None:
    """Write the modules into `target`, an existing folder."""
    with tempfile.TemporaryDirectory() as scratch:
        plugins = [f"--plugin={item}={python.parent / item}" for item in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
        command: list[str | Path] = [python, "-m", "grpc_tools.protoc", f"-I{SOURCES}", *plugins]
        protos = sorted(SOURCES.glob("gradwire/v1/*.proto"))
        services = [path for path in protos if path.stem.endswith("_service")]
        for outputs, paths in ((("python", "mypy"), protos), (("grpc_python", "mypy_grpc"), services)):
            given = [f"--{name}_out={'quiet:' if 'mypy' in name else ''}{scratch}" for name in outputs]
            subprocess.run([*command, *given, *paths], check=True)
        for path in _generated(Path(scratch) / "gradwire" / "v1"):
            (target / path.name).write_text(_rewrite_imports(path.read_text()))


def _rewrite_imports(source: str) -> str:
    """Move the modules to where they are imported from; the names of files and messages in descriptors stay."""
    return re.sub(r"\bgradwire\.v1(?= import \w+_pb2\b|\.\w+_pb2\b)", "gradwire_proto.v1", source)


def _generated(folder: Path) -> list[Path]:
    return sorted(path for pattern in PATTERNS for path in folder.glob(pattern))


def _differences(python: Path) -> list[str]:
    with tempfile.TemporaryDirectory() as scratch:
        generate(python, Path(scratch))
        fresh = {path.name: path.read_bytes() for path in _generated(Path(scratch))}
    committed = {path.name: path.read_bytes() for path in _generated(PACKAGE / "v1")}
    return sorted(name for name in fresh | committed if fresh.get(name) != committed.get(name))


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m gradwire_proto", description="Generate v1/ from the .proto files.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the committed files are not fresh")
    options = parser.parse_args()
    try:
        python = generator()
    except subprocess.CalledProcessError:
        needed = ", ".join(REQUIREMENTS)
        sys.stderr.write(f"generator: needed {needed}, pip could not install them; use a Python that has wheels of them\n")
        return 2
    if options.check:
        stale = _differences(python)
        if stale:
            sys.stderr.write(f"generated code: needed fresh files, got stale {', '.join(stale)}; run python -m gradwire_proto\n")
        return int(bool(stale))
    for path in _generated(PACKAGE / "v1"):
        path.unlink()
    generate(python, PACKAGE / "v1")
    return 0


if __name__ == "__main__":
    sys.exit(main())
