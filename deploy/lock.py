"""Write deploy/requirements/*.txt: every package of an image, its release and the hashes of its wheels.

    python deploy/lock.py           asks the package index that pip is set up with
    python deploy/lock.py --check   asks nobody: tells whether the files still belong to what they were made from

They are made from the dependencies in pyproject.toml and the releases in .ci/constraints.txt. A digest of both stands at the top of
each file, so that a change of either is noticed without a network.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "deploy" / "requirements"
VARIANTS = (("server",), ("server", "jit"), ("server", "load"))
PYTHONS = ("3.11", "3.12", "3.13")
MACHINES = ("x86_64", "aarch64")
_OLDEST_GLIBC, _NEWEST_GLIBC = 5, 36
_MADE_FROM = "# made by deploy/lock.py from sha256:"


def inputs() -> dict[str, list[str]]:
    """Return what each file is made from: its name, and requirements with the releases they are held to."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    tools = [line for line in extras["test"] if line.startswith("hatchling==")]
    found = {"build": project["build-system"]["requires"] + tools}
    for variant in VARIANTS:
        if set(variant) <= set(extras):
            found["-".join(variant)] = project["project"]["dependencies"] + [line for name in variant for line in extras[name]]
    return found


def constraints() -> str:
    """Return the releases that the tests were last seen passing with."""
    return (ROOT / ".ci" / "constraints.txt").read_text(encoding="utf-8")


def head(requirements: list[str]) -> str:
    """Return the first line of the file that is made from these requirements."""
    made_from = json.dumps([sorted(requirements), constraints(), PYTHONS, MACHINES])
    return _MADE_FROM + hashlib.sha256(made_from.encode()).hexdigest()


def stale() -> list[str]:
    """Return the names of the files that are missing, left over, or made from something else."""
    wanted = {f"{name}.txt": head(requirements) for name, requirements in inputs().items()}
    present = {path.name: path.read_text(encoding="utf-8").split("\n", 1)[0] for path in FOLDER.glob("*.txt")}
    return sorted(name for name in wanted | present if wanted.get(name) != present.get(name))


def lock(requirements: list[str]) -> str:
    """Return the text of a file: each package once, in one release, with the hash of a wheel for each Python and machine.

    Raises:
        ValueError: two Pythons or machines would take different releases.
    """
    releases: dict[str, str] = {}
    hashes: dict[str, set[str]] = {}
    for python in PYTHONS:
        for machine in MACHINES:
            for name, release, digest in _resolve(requirements, python, machine):
                if releases.setdefault(name, release) != release:
                    raise ValueError(f"{name}: needed one release everywhere, got {releases[name]} and {release}; constrain it")
                hashes.setdefault(name, set()).add(digest)
    lines = [head(requirements)]
    for name in sorted(releases):
        lines.append(f"{name}=={releases[name]} \\")
        lines += [f"    --hash=sha256:{digest} \\" for digest in sorted(hashes[name])]
        lines[-1] = lines[-1].removesuffix(" \\")
    return "\n".join(lines) + "\n"


def _resolve(requirements: list[str], python: str, machine: str) -> list[tuple[str, str, str]]:
    """Return name, release and SHA-256 of each wheel that pip would install there."""
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in range(_NEWEST_GLIBC, _OLDEST_GLIBC - 1, -1)]
    with tempfile.TemporaryDirectory() as folder:
        held = Path(folder) / "constraints.txt"
        held.write_text(constraints(), encoding="utf-8")
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "-qq", f"--report={report}"]
        command += [f"--target={folder}/target", "--only-binary=:all:", f"--python-version={python}", f"--constraint={held}"]
        platforms.append(f"--platform=manylinux2014_{machine}")
        subprocess.run([*command, *platforms, *requirements], check=True)
        installed: list[dict[str, Any]] = json.loads(report.read_text(encoding="utf-8"))["install"]
    return [
        (
            re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower(),
            item["metadata"]["version"],
            item["download_info"]["archive_info"]["hashes"]["sha256"],
        )
        for item in installed
    ]


def main() -> int:
    """Write the files, or tell which are stale; return 1 if some are."""
    if "--check" in sys.argv[1:]:
        old = stale()
        if old:
            print(f"deploy/requirements: needed files made from what there is, got others: {', '.join(old)}; make lock")
        return 1 if old else 0
    for path in FOLDER.glob("*.txt"):
        path.unlink()
    for name, requirements in inputs().items():
        (FOLDER / f"{name}.txt").write_text(lock(requirements), encoding="utf-8")
        print(f"wrote deploy/requirements/{name}.txt")
    return 0


if __name__ == "__main__":
    sys.exit(main())
