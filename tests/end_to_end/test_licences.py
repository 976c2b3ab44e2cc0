"""Licences: of what is shipped, and of what is needed, as the packages that are installed say."""

import json
import re
import tomllib
from importlib import metadata

import pytest
from helpers.small import ROOT

PAGE = (ROOT / "docs" / "licences.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FREE = {"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "MIT", "MPL-2.0", "PSF-2.0", "Zlib"}
"""SPDX identifiers that anyone may use and pass on."""
NAMES = {
    r"\bApache\b": "Apache-2.0",
    r"\bBSD[ -]2-Clause": "BSD-2-Clause",
    r"\bBSD\b": "BSD-3-Clause",
    r"\bISC\b": "ISC",
    r"\bMIT\b": "MIT",
    r"\bMPL-2\.0|Mozilla Public License 2\.0": "MPL-2.0",
    r"\bPython Software Foundation\b": "PSF-2.0",
}
"""How packages name their licences where they give no SPDX expression."""
OWN = {"opensmile"}
"""Packages of an extra that come with terms of their own, which docs/licences.md states."""


def licences(package):
    """The SPDX identifiers of an installed package; nothing where none of its words is known."""
    about = metadata.metadata(package)
    if expression := about["License-Expression"]:
        return set(re.split(r" (?:AND|OR) ", expression.replace("(", "").replace(")", "")))
    classifiers = [line for line in about.get_all("Classifier") or () if line.startswith("License ::")]
    words = [about["License"] or "", *(line.rpartition(" :: ")[2] for line in classifiers)]
    short = [word for word in words if len(word) < 60]  # some give the whole text
    found = {spdx for word in short for pattern, spdx in NAMES.items() if re.search(pattern, word)}
    return found - {"BSD-3-Clause"} if "BSD-2-Clause" in found else found


def direct(*left_out):
    """The names of what the package and its extras need."""
    extras = {name: lines for name, lines in PROJECT["optional-dependencies"].items() if name not in left_out}
    lines = [*PROJECT["dependencies"], *(line for extra in extras.values() for line in extra)]
    return sorted({re.match(r"[\w.-]+", line)[0] for line in lines} - {PROJECT["name"]})


@pytest.mark.parametrize("package", direct())
def test_a_dependency_may_be_used_by_anyone(package):
    found = licences(package)
    assert found, f"{package} names no licence that is known here"
    assert found <= FREE, f"{package} is under {found}"


def test_the_page_lists_the_dependencies_with_their_licences():
    rows = dict(re.findall(r"^\| `([\w.-]+)` \| ([^|]+?) \|", PAGE, re.MULTILINE))
    assert sorted(rows) == direct("dev", "docs")
    for name, licence in rows.items():
        if name not in OWN:
            assert set(re.split(r" (?:AND|OR) ", licence)) == licences(name), name


def test_the_package_names_the_licences_of_its_parts():
    assert set(PROJECT["license"].split(" AND ")) == {"Apache-2.0", "CC-BY-NC-SA-4.0", "MIT"}
    for pattern in PROJECT["license-files"]:
        assert list(ROOT.glob(pattern)), pattern
    shipped = {path.name for path in (ROOT / "LICENSES").iterdir()}
    assert shipped == {"CC-BY-NC-SA-4.0.txt"}
    for name in PROJECT["license"].split(" AND "):
        assert name in PAGE


def test_the_page_of_the_browser_names_what_it_is_built_of():
    text = (ROOT / "ser_hf" / "app" / "web" / "THIRD_PARTY_LICENSES.txt").read_text()
    versions = json.loads((ROOT / "ser_hf" / "app" / "web" / "versions.json").read_text())
    for name, version in versions.items():
        assert f"{name} {version} (" in text
    for part in ("@huggingface/jinja", "@huggingface/tokenizers", "onnxruntime-common", "silero-vad"):
        assert part in text
    for words in ("Copyright (c) Microsoft Corporation", "Copyright (c) 2020-present Silero Team", "Apache License"):
        assert words in text
