import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import t

from ser_hf.evaluation import bootstrap, metrics


def clips(matrices):
    """References, predictions and speakers that have these confusion matrices."""
    speaker, reference, prediction = (
        np.repeat(index.ravel(), matrices.ravel()) for index in np.indices(matrices.shape)
    )
    return reference, prediction, np.char.add("s", speaker.astype(str))


def matrix(right, wrong, label=0):
    """One speaker with so many right and wrong answers to one label."""
    counts = np.zeros((8, 8), dtype=int)
    counts[label, label], counts[label, (label + 1) % 8] = right, wrong
    return counts


def simulate(rng, number, speakers, clips_each=8, ease=0.4, spread=0.7):
    """Eight emotions of unequal difficulty, speakers that are easier or harder than others."""
    odds = ease + np.linspace(-1, 1, 8) + rng.normal(0, spread, (number, speakers, 1))
    recall = expit(odds + rng.normal(0, spread / 2, (number, speakers, 8)))[..., None]
    answers = np.eye(8) * recall + (1 - np.eye(8)) / 7 * (1 - recall)
    return rng.multinomial(clips_each, answers)


@pytest.mark.parametrize(("speakers", "percentiles_below"), [(4, 84), (8, 91)])
def test_95_percent_intervals_hold_the_truth_about_95_times_in_100(speakers, percentiles_below):
    rng = np.random.default_rng(7)
    truth = {name: values.mean() for name, values in metrics.scores(simulate(rng, 8000, speakers).sum(1)).items()}
    held, plain = dict.fromkeys(metrics.METRICS, 0), 0
    for seed, matrices in enumerate(simulate(rng, 300, speakers)):
        bounds, _ = bootstrap.speaker_intervals(*clips(matrices), resamples=200, seed=seed)
        for name, (low, high) in bounds.items():
            held[name] += low <= truth[name] <= high
        low, high = np.quantile(bootstrap.resampled_figures(matrices, 200, seed)["uar"], [0.025, 0.975])
        plain += low <= truth["uar"] <= high
    for name, count in held.items():
        assert 92.5 <= count / 3 <= 97.5, name
    assert plain / 3 < percentiles_below  # so that a wrong method would be seen here


def test_the_width_is_that_of_t_over_the_figures_of_the_speakers():
    right = np.array([30, 34, 41, 44, 51])
    bounds, says = bootstrap.speaker_intervals(*clips(np.stack([matrix(n, 60 - n) for n in right])), resamples=50_000)
    figure, error = right.mean() / 60, right.std(ddof=1) / 60 / np.sqrt(5)
    half = t.ppf(0.975, 4) * error / (figure * (1 - figure))
    np.testing.assert_allclose(bounds["accuracy"], expit(logit(figure) + np.array([-half, half])), atol=0.004)
    assert says == "95 % bootstrap over 5 test speakers (50,000 resamples, t on the logit scale)"


def test_speakers_are_drawn_not_clips():
    apart = np.stack([matrix(50, 0), matrix(50, 0), matrix(0, 50), matrix(0, 50)])
    alike = np.stack([matrix(n, 50 - n) for n in (24, 26, 25, 25)])
    (low, high), (least, most) = (bootstrap.speaker_intervals(*clips(m))[0]["accuracy"] for m in (apart, alike))
    assert low < 0.05
    assert high > 0.95
    assert 0.47 < least < 0.5 < most < 0.53  # of 200 clips drawn one by one it would be 0.43 to 0.57


@pytest.mark.parametrize("seed", range(12))
def test_bounds_lie_in_0_to_1_and_hold_the_figure(seed):
    rng = np.random.default_rng(seed)
    matrices = simulate(rng, 1, 3 + seed, clips_each=1 + seed % 4, ease=(-6, 0, 3, 8)[seed % 4])[0]
    bounds, _ = bootstrap.speaker_intervals(*clips(matrices), resamples=200)
    figures = metrics.scores(matrices.sum(0))
    for name, (low, high) in bounds.items():
        assert 0 <= low <= figures[name] <= high <= 1
        assert low < high


def test_all_right_and_all_wrong_leave_what_one_clip_could_change():
    bounds, _ = bootstrap.speaker_intervals(*clips(np.stack([matrix(60, 0)] * 5)))
    low = expit(logit(299 / 300) - t.ppf(0.975, 4) / (299 / 300))
    assert bounds["accuracy"] == [pytest.approx(low), 1.0]
    assert 0.94 < low < 0.96
    more, _ = bootstrap.speaker_intervals(*clips(np.stack([matrix(60, 0)] * 24)))
    assert more["accuracy"][0] > 0.99
    wrong, _ = bootstrap.speaker_intervals(*clips(np.stack([matrix(0, 60)] * 5)))
    assert wrong["accuracy"] == [0.0, pytest.approx(1 - low)]


def test_no_interval_below_three_speakers():
    bounds, says = bootstrap.speaker_intervals(*clips(np.stack([matrix(9, 1), matrix(5, 5)])))
    assert bounds is None
    assert says == "no interval: 2 test speaker(s), at least 3 are needed"


def test_no_interval_where_one_speaker_has_most_of_the_clips():
    actor, actress = (np.diag(support) for support in ([8, 16, 16, 16, 16, 16, 8, 8], [200, 0, *[200] * 5, 199]))
    bounds, says = bootstrap.speaker_intervals(*clips(np.stack([actor] * 4 + [actress])))
    assert bounds is None
    assert says == (
        "no interval: one of 5 test speakers has 77 % of the clips, so that they are worth 1.6 speakers; "
        "at least 3.0 are needed"
    )
    assert bootstrap.speaker_intervals(*clips(np.stack([actor] * 4)))[0]
    assert bootstrap.speaker_intervals(*clips(np.stack([actor] * 4 + [actress // 4])))[0]


def test_what_speakers_are_worth_by_hand():
    sizes = np.stack([matrix(60, 0), matrix(60, 0), matrix(100, 80)])
    assert bootstrap.effective_speakers(sizes)["accuracy"] == pytest.approx(300**2 / (2 * 60**2 + 180**2))
    assert bootstrap.effective_speakers(np.stack([matrix(7, 3)] * 6))["uar"] == pytest.approx(6)
    # of label 1 the first speaker has all clips: shares of UAR are 2/3, 1/6 and 1/6; of the clips
    # 1/2, 1/4 and 1/4
    alone = np.stack([matrix(5, 5) + matrix(6, 4, 1), matrix(5, 5), matrix(5, 5)])
    worth = bootstrap.effective_speakers(alone)
    assert worth["uar"] == worth["macro_f1"] == pytest.approx(1 / (4 / 9 + 2 / 36))
    assert worth["accuracy"] == worth["weighted_f1"] == pytest.approx(1 / (1 / 4 + 2 / 16))


def test_the_order_of_clips_does_not_count_and_the_seed_does():
    columns = clips(simulate(np.random.default_rng(0), 1, 6)[0])
    order = np.random.default_rng(1).permutation(len(columns[0]))
    first = bootstrap.speaker_intervals(*columns)
    assert bootstrap.speaker_intervals(*(column[order] for column in columns)) == first
    assert bootstrap.speaker_intervals(*columns, seed=1) != first
    assert bootstrap.interval_bounds(bootstrap.speaker_confusions(*columns)[1]) == first[0]
