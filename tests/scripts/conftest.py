"""Scripts that several files of tests read."""

import pytest


@pytest.fixture(scope="session")
def bundle_model(load_script):
    return load_script("maintain/bundle_model")


@pytest.fixture(scope="session")
def reproduce(load_script):
    return load_script("reproduce")
