"""Print what an image holds, as CycloneDX 1.6: run by the Python of the image, while it is built.

    python deploy/sbom.py VERSION

It lists the Python packages this interpreter finds and the packages of Debian. It tells no time and draws no number, so that an
image built again from the same parts has the same list.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import uuid
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

_STATUS = Path("/var/lib/dpkg/status")
_RELEASE = Path("/etc/os-release")


def bill(version: str, status: str, release: str) -> dict[str, Any]:
    """Return the bill of materials.

    Args:
        version: the release of gradwire in the image.
        status: the list of packages that dpkg keeps; empty where there is none.
        release: the text of os-release.
    """
    components = sorted([*_of_python(), *_of_debian(status, release)], key=lambda each: str(each["bom-ref"]))
    root = {"type": "application", "bom-ref": f"pkg:pypi/gradwire@{version}", "name": "gradwire", "version": version}
    components = [each for each in components if each["bom-ref"] != root["bom-ref"]]
    content = json.dumps([root, components], sort_keys=True).encode()
    refs = [each["bom-ref"] for each in components]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": uuid.UUID(bytes=hashlib.sha256(content).digest()[:16], version=4).urn,
        "version": 1,
        "metadata": {"component": root | {"purl": root["bom-ref"], "licenses": [{"license": {"id": "Apache-2.0"}}]}},
        "components": components,
        "dependencies": [{"ref": root["bom-ref"], "dependsOn": refs}],
    }


def _of_python() -> Iterator[dict[str, Any]]:
    yield _component("generic", "python", platform.python_version(), "PSF-2.0")
    found = {each.name.replace("_", "-").lower(): each for each in distributions()}
    for name, each in found.items():
        yield _component("pypi", name, each.version, _license(each))


def _of_debian(status: str, release: str) -> Iterator[dict[str, Any]]:
    fields = dict(line.split("=", 1) for line in release.splitlines() if "=" in line)
    system = fields.get("ID", "debian").strip('"')
    for paragraph in status.split("\n\n"):
        package = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and not line.startswith(" "))
        if package.get("Status") == "install ok installed":
            name, version, machine = package["Package"], package["Version"], package["Architecture"]
            yield _component(f"deb/{system}", name, version, "", f"?arch={machine}")


def _component(kind: str, name: str, version: str, license_name: str, qualifiers: str = "") -> dict[str, Any]:
    purl = f"pkg:{kind}/{quote(name, safe='')}@{quote(version, safe='')}{qualifiers}"
    found: dict[str, Any] = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    if license_name:
        found["licenses"] = [{"license": {"name": license_name}}]
    return found


def _license(package: Distribution) -> str:
    """Return what a package calls its licence, on one line; empty where it says nothing."""
    texts = [package.metadata.get("License-Expression"), package.metadata.get("License")]
    classifiers = package.metadata.get_all("Classifier") or []
    texts += [line.rsplit(" :: ", 1)[-1] for line in classifiers if line.startswith("License ::")]
    lines = [text.strip().splitlines()[0] for text in texts if text and text.strip()]
    return min(lines, key=len, default="")


def main() -> int:
    """Print the bill of this machine's materials."""
    texts = [path.read_text(encoding="utf-8") if path.exists() else "" for path in (_STATUS, _RELEASE)]
    print(json.dumps(bill(sys.argv[1], *texts), indent=1, sort_keys=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
