"""The list of what an image holds: complete, valid, and the same whenever it is made from the same parts."""

import json

import pytest

from deploy import sbom

STATUS = """Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u10
Description: GNU C Library
 Package: of a description

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1
"""
RELEASE = 'PRETTY_NAME="Debian"\nID=debian\n'


def test_packages_of_python_and_of_debian_are_listed():
    found = sbom.bill("0.1.0", STATUS, RELEASE)
    purls = {each["purl"] for each in found["components"]}
    assert "pkg:deb/debian/libc6@2.36-9%2Bdeb12u10?arch=amd64" in purls
    assert {purl.partition("@")[0] for purl in purls} >= {"pkg:pypi/numpy", "pkg:pypi/grpcio", "pkg:generic/python"}
    assert not [purl for purl in purls if "gone" in purl or "pkg:pypi/gradwire@" in purl]
    assert found["metadata"]["component"]["purl"] == "pkg:pypi/gradwire@0.1.0"
    assert set(found["dependencies"][0]["dependsOn"]) == purls


def test_the_same_parts_give_the_same_list_and_others_another():
    assert sbom.bill("0.1.0", STATUS, RELEASE) == sbom.bill("0.1.0", STATUS, RELEASE)
    other = sbom.bill("0.1.0", STATUS.replace("2.36", "2.37"), RELEASE)
    assert other["serialNumber"] != sbom.bill("0.1.0", STATUS, RELEASE)["serialNumber"]


def test_it_is_valid_cyclonedx(needs):
    assert not complaint(needs, json.dumps(sbom.bill("0.1.0", STATUS, RELEASE)))
    assert complaint(needs, json.dumps(sbom.bill("0.1.0", STATUS, RELEASE) | {"serialNumber": "7"}))


def complaint(needs, text):
    """What the schema of CycloneDX has against a text."""
    needs("cyclonedx", "package")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)


@pytest.mark.parametrize(("text", "name"), [("BSD\nmore", "BSD"), ("", "")])
def test_a_licence_is_one_line(text, name):
    from email.message import Message

    class Package:
        metadata = Message()

    Package.metadata["License"] = text
    assert sbom._license(Package) == name
