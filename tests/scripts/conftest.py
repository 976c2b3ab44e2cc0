"""The script that bundles a model, as a module."""

import importlib.util
import sys

import pytest
from helpers.small import ROOT


@pytest.fixture(scope="session")
def bundle_model():
    sys.path.insert(0, str(ROOT / "scripts"))  # as for a script; it takes that out again
    spec = importlib.util.spec_from_file_location("bundle_model", ROOT / "scripts" / "bundle_model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert str(ROOT / "scripts") not in sys.path
    return module
