"""What images are made of: every package in one release with its hashes, made from what the project declares."""

import re

import pytest

from deploy import lock

FILES = sorted(lock.FOLDER.glob("*.txt"))


def pins(text):
    """The packages of a file: name, release and hashes."""
    found = re.findall(r"^([a-z0-9-]+)==(\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", text, re.MULTILINE)
    return {name: (release, re.findall(r"sha256:([0-9a-f]{64})", hashes)) for name, release, hashes in found}


def test_files_belong_to_what_the_project_declares():
    assert not lock.stale(), "make lock"


def test_a_change_of_a_dependency_or_a_release_is_noticed(monkeypatch):
    original, held = lock.inputs(), lock.constraints()
    monkeypatch.setattr(lock, "inputs", lambda: original | {"server": [*original["server"], "more>=1"]})
    assert lock.stale() == ["server.txt"]
    monkeypatch.setattr(lock, "inputs", lambda: {"build": original["build"]})
    assert lock.stale() == sorted(f"{name}.txt" for name in original if name != "build")
    monkeypatch.setattr(lock, "constraints", lambda: held.replace("numpy==", "numpy==9."))
    assert "build.txt" in lock.stale()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_line_is_a_release_with_hashes_and_names_no_place(path):
    text = path.read_text(encoding="utf-8")
    first, _, rest = text.partition("\n")
    assert re.fullmatch(r"# made by deploy/lock\.py from sha256:[0-9a-f]{64}", first)
    assert rest.count("\n") == sum(1 + len(hashes) for _, hashes in pins(text).values())
    assert "//" not in text


def test_images_have_the_releases_that_were_tested_and_all_that_is_declared():
    from packaging.requirements import Requirement

    tested = [Requirement(line) for line in lock.constraints().splitlines() if not line.startswith("#")]
    wanted = {name_of(pin): str(pin.specifier).removeprefix("==") for pin in tested}
    for name, declared in lock.inputs().items():
        found = {package: release for package, (release, _) in pins((lock.FOLDER / f"{name}.txt").read_text()).items()}
        assert {name_of(Requirement(line)) for line in declared} <= set(found)
        assert {package: found[package] for package in wanted.keys() & found} == {p: wanted[p] for p in wanted.keys() & found}


def name_of(requirement):
    return requirement.name.replace("_", "-").lower()


def test_one_release_everywhere_or_none(monkeypatch):
    monkeypatch.setattr(lock, "_resolve", lambda requirements, python, machine: [("numpy", f"2.{python[-1]}", "0" * 64)])
    with pytest.raises(ValueError, match=r"numpy: needed one release everywhere, got 2\.1 and 2\.2; constrain it"):
        lock.lock(["numpy"])
