"""Scripts as modules."""

import importlib.util
import sys

import pytest
from helpers.small import ROOT


@pytest.fixture(scope="session")
def load_script():
    """Loads a script by its name, as Python does where it runs it."""

    def load(name):
        sys.path.insert(0, str(ROOT / "scripts"))  # the script takes that out again
        spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # its dataclasses look themselves up there
        spec.loader.exec_module(module)
        assert str(ROOT / "scripts") not in sys.path
        return module

    return load


@pytest.fixture(scope="session")
def bundle_model(load_script):
    return load_script("bundle_model")


@pytest.fixture(scope="session")
def reproduce(load_script):
    return load_script("reproduce")
