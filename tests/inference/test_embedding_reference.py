"""Where training clips lie: the distance, its threshold, the file, and the sample."""

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf

from ser_hf.evaluation.adaptation_head import Embedded
from ser_hf.evaluation.embedding_reference import fit_reference
from ser_hf.inference.bulk.drift import DistanceMeter, measured_share
from ser_hf.inference.embedding_reference import FILE, EmbeddingReference, EmbeddingReferenceError, load_beside
from ser_hf.inference.predictor import Predictor

WIDTH = 24


def clips(seed, speakers=10, each=200, shift=0.0, spread=1.0):
    """Clips of some speakers, whose first dimensions are wide."""
    rng = np.random.default_rng(seed)
    scale = spread * np.linspace(4, 0.5, WIDTH)
    embeddings = shift + rng.normal(size=(speakers * each, WIDTH)) * scale
    names = np.repeat([f"{seed}-{number}" for number in range(speakers)], each)
    return Embedded(np.zeros((len(names), 8)), embeddings, np.zeros(len(names), dtype=int), names)


@pytest.fixture(scope="module")
def reference():
    return fit_reference(clips(1), None, "weights")


def test_the_distance_is_that_of_mahalanobis(reference):
    train, points = clips(1).embeddings, clips(2, 1).embeddings
    wanted = np.sqrt(LedoitWolf().fit(train).mahalanobis(points))
    assert reference.distances(points) == pytest.approx(wanted, rel=0.01)  # directions in float16


@pytest.mark.parametrize(
    ("other", "low", "high"),
    [
        (clips(3), 0.005, 0.02),
        (clips(4, shift=8.0), 0.95, 1.0),
        (clips(5, spread=2.0), 0.9, 1.0),
        (clips(6, spread=0.5), 0.0, 0.0),
    ],
)
def test_the_share_outside_tells_of_what_is_unlike(reference, other, low, high):
    share = (reference.distances(other.embeddings) > reference.threshold).mean()
    assert low <= share <= high


def test_held_out_speakers_are_those_of_validation_where_there_are_any(reference):
    assert (reference.held_out, reference.clips, reference.speakers) == ("cross-fitted", 2000, 10)
    assert reference.share == pytest.approx(0.01, abs=1e-9)
    far = clips(7, speakers=1, shift=9.0)
    near = clips(8, speakers=3)
    both = Embedded(
        *(np.concatenate([getattr(far, n), getattr(near, n)]) for n in ("logits", "embeddings", "labels", "speakers"))
    )
    measured = fit_reference(clips(1), both, "weights")
    assert measured.threshold == reference.threshold
    assert (measured.held_out, measured.clips, measured.speakers) == ("validation", 800, 4)
    assert measured.highest_share == 1.0
    assert 0.25 < measured.share < 0.29


@pytest.mark.parametrize("speakers", [1, 2])
def test_one_speaker_has_no_reference(speakers):
    assert (fit_reference(clips(1, speakers), None, "weights") is None) == (speakers == 1)


@pytest.mark.parametrize("width", [2, 100, 640])
def test_the_file_is_small_and_says_what_was_fitted(tmp_path, width):
    rng = np.random.default_rng(0)
    names = np.repeat(["a", "b", "c"], 40)
    train = Embedded(np.zeros((120, 8)), rng.normal(size=(120, width)), np.zeros(120, dtype=int), names)
    fitted = fit_reference(train, None, "weights")
    fitted.save(tmp_path / FILE)
    assert (tmp_path / FILE).stat().st_size < 100_000
    read = load_beside(tmp_path)
    assert read.figures() == fitted.figures()
    assert read.distances(train.embeddings) == pytest.approx(fitted.distances(train.embeddings))
    read.check_model("weights")
    with pytest.raises(EmbeddingReferenceError, match="other weights"):
        read.check_model("others")


@pytest.mark.parametrize("content", [b"", b"no tensors", None])
def test_a_file_that_is_none_ends_in_one_line(reference, tmp_path, content):
    reference.save(tmp_path / FILE)
    if content is None:
        content = (tmp_path / FILE).read_bytes().replace(b"ser_hf embedding reference", b"ser_hf embedding something")
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(EmbeddingReferenceError, match="ser-hf calibrate"):
        EmbeddingReference.load(tmp_path / FILE)


def test_a_sample_is_chosen_by_content(tuned):
    meter = DistanceMeter(Predictor(tuned, backend="torch", device="cpu"))
    keys = [f"{number:08x}" + "0" * 56 for number in np.random.default_rng(0).integers(0, 2**32, 5000)]
    chosen = [key for key in keys if meter.chooses(key, measured_share(50_000))]
    assert 25 < len(chosen) < 80
    assert set(chosen) <= {key for key in keys if meter.chooses(key, 0.1)}
    assert all(meter.chooses(key, measured_share(400)) for key in keys)
    assert not meter.chooses(None, 1.0)
