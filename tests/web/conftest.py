"""Node and the packages of the page; without Node its tests skip, and say so."""

import shutil

import pytest
from helpers.small import ROOT

MODULES = ROOT / "web" / "node_modules"


@pytest.fixture(scope="session", autouse=True)
def node():
    """The program `node`, with what `npm ci` installs in web/."""
    if (found := shutil.which("node")) is None:
        pytest.skip("node is not installed; .ci/run installs Debian's")
    assert (MODULES / "esbuild").is_dir(), "run `make web` first: it installs what the page is built of"
    return found
