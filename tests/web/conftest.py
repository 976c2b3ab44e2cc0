"""Node and the packages of the page; without them its tests skip, and say so."""

import shutil

import pytest
from helpers.small import ROOT

MODULES = ROOT / "web" / "node_modules"


@pytest.fixture(scope="session", autouse=True)
def node():
    """The program `node`, with what `npm ci` installs in web/."""
    if (found := shutil.which("node")) is None or not (MODULES / "esbuild").is_dir():
        pytest.skip("node is not installed, or `npm ci` was not run in web/")
    return found
