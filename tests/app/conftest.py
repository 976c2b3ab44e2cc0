"""What tests of the app share."""

import pytest

from ser_hf.inference.predictor import Predictor


@pytest.fixture(scope="module")
def predictor(tuned):
    return Predictor(tuned)


@pytest.fixture(scope="module")
def clips(recordings):
    """Name and content of three recordings."""
    return [(path.name, path.read_bytes()) for path in sorted(recordings[0].rglob("*.wav"))[:3]]
