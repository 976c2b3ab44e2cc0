import csv
import dataclasses
import itertools
import json

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import t

from ser_hf import BUNDLED_MODEL
from ser_hf.errors import UserError
from ser_hf.evaluation import compare
from ser_hf.evaluation.compare import compare_models, comparison_table, comparison_tex
from ser_hf.evaluation.metrics import scores
from ser_hf.evaluation.results import Results
from ser_hf.labels import EMOTIONS


def make(folder, labels, answers, speakers, protocol="speaker", digest="abc", order=None):
    """A folder of evidence; labels and answers are class indices."""
    folder.mkdir()
    results = Results.load(BUNDLED_MODEL / "results.json")
    results = dataclasses.replace(results, protocol=protocol, protocol_hash=digest, fold=0, model=folder.name)
    results.save(folder / "results.json")
    with open(folder / "predictions.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "corpus", "speaker", "label", "predicted", *EMOTIONS])
        for i in range(len(labels)) if order is None else order:
            names = EMOTIONS[labels[i]], EMOTIONS[answers[i]]
            writer.writerow([f"clip-{i:04d}.wav", "ravdess", speakers[i], *names, *np.eye(8)[answers[i]]])
    return folder


def answered(rng, labels, chance):
    """Answers that are right with a chance, the same for all or one for each clip."""
    return np.where(rng.random(len(labels)) < chance, labels, (labels + rng.integers(1, 8, len(labels))) % 8)


def pair(rng, number, speakers, gain=0.0, apart=0.5):
    """Confusion matrices of two models over the same speakers, each shape `(number, speakers, 8,
    8)`."""
    ease = rng.normal(0.3, 0.7, (number, speakers, 1))
    both = []
    for model in range(2):
        odds = ease + rng.normal(gain * model, apart, (number, speakers, 8))
        recall = expit(odds)[..., None]
        both.append(rng.multinomial(8, np.eye(8) * recall + (1 - np.eye(8)) / 7 * (1 - recall)))
    return both


@pytest.fixture
def folders(tmp_path):
    """A, and a better B, over eight speakers of 40 clips."""
    rng = np.random.default_rng(0)
    labels, speakers = np.tile(np.arange(8), 40), np.repeat([f"s{i}" for i in range(8)], 40)
    a = make(tmp_path / "a", labels, answered(rng, labels, 0.5), speakers)
    return a, make(tmp_path / "b", labels, answered(rng, labels, 0.75), speakers, order=rng.permutation(320))


def test_a_better_model_is_called_so(folders):
    report = json.loads(json.dumps(compare_models(*folders)))
    for name in ("uar", "accuracy", "macro_f1"):
        row = report["differences"][name]
        assert row["difference"] == pytest.approx(report["b"][name] - report["a"][name])
        assert 0 < row["ci95"][0] < row["difference"] < row["ci95"][1] < 0.5
        assert row["p"] == 2 / 2**8  # all speakers are better with B: only the two extreme exchanges come to as much
    assert report["a"]["accuracy"] == pytest.approx(0.5, abs=0.1)  # rows of B stand in another order
    assert report["b"]["accuracy"] == pytest.approx(0.75, abs=0.1)
    assert report["smallest_p"] == 2 / 2**8
    assert report["verdict"].startswith("B is better: UAR differs by +0.")
    text = comparison_table(report)
    assert "speaker fold 0: 320 clips of 8 speakers" in text
    assert (
        "all 256 exchanges of both models' answers to whole speakers; with 8 speakers it cannot fall below 0.00781"
        in text
    )
    assert text.splitlines()[-1] == report["verdict"]


def test_exchanging_the_folders_turns_every_sign(folders):
    there, back = compare_models(*folders), compare_models(*folders[::-1])
    for name, row in there["differences"].items():
        other = back["differences"][name]
        assert other["difference"] == pytest.approx(-row["difference"])
        np.testing.assert_allclose(other["ci95"], [-row["ci95"][1], -row["ci95"][0]])
        assert other["p"] == row["p"]
    assert back["verdict"].startswith("A is better: UAR differs by -0.")
    assert back["a"] == there["b"]


def test_a_split_is_told_by_its_hash_and_named_as_a_names_it(folders, tmp_path):
    labels, names = np.tile(np.arange(8), 40), np.repeat([f"s{i}" for i in range(8)], 40)
    other = make(tmp_path / "c", labels, labels, names, protocol="mine.csv")
    assert compare_models(folders[0], other)["protocol"] == "speaker"
    assert compare_models(other, folders[0])["protocol"] == "mine.csv"


@pytest.mark.parametrize(
    ("again", "present", "absent", "clip"),
    [([(), (3,)], 1, 0, 3), ([(7,), ()], 0, 1, 7), ([(3,), (7,)], 0, 1, 3), ([(7, 7), (7,)], 0, 1, 7)],
    ids=["twice in B", "twice in A", "one twice in A and another in B", "three times in A"],
)
def test_a_clip_that_one_model_answered_more_often_is_refused(tmp_path, again, present, absent, clip):
    labels, names = np.tile(np.arange(8), 3), np.repeat(["x", "y", "z"], 8)
    both = [
        make(tmp_path / name, labels, labels, names, order=[*range(24), *more])
        for name, more in zip("ab", again, strict=True)
    ]
    refused(*both, f"'{both[absent]}' lacks an answer to clip-{clip:04d}.wav that '{both[present]}' has")


def test_a_model_does_not_differ_from_itself(folders):
    report = compare_models(folders[0], folders[0])
    for row in report["differences"].values():
        assert (row["difference"], row["p"]) == (0.0, 1.0)
        assert row["ci95"][0] == -row["ci95"][1]
        assert abs(row["ci95"][1]) < 0.01
    assert report["verdict"].startswith("No difference that 8 speakers can tell: UAR differs by +0.000 [")


@pytest.mark.parametrize("seed", range(3))
def test_p_by_brute_force(seed):
    a, b = (matrices[0] for matrices in pair(np.random.default_rng(seed), 1, 5, gain=0.3))
    values, tried = compare.exchanged(a, b)
    assert tried == 32
    seen = {name: [] for name in compare.NAMES}
    for exchange in itertools.product([False, True], repeat=5):
        ours = sum(y if swap else x for swap, x, y in zip(exchange, a, b, strict=True))
        theirs = sum(x if swap else y for swap, x, y in zip(exchange, a, b, strict=True))
        for name, found in seen.items():
            found.append(abs(scores(theirs)[name] - scores(ours)[name]))
    for name, found in seen.items():
        assert values[name] == sum(size > found[0] - 1e-9 for size in found) / 32


def test_p_is_even_where_models_do_not_differ():
    ours, theirs = pair(np.random.default_rng(3), 600, 8)
    values = np.array([compare.exchanged(a, b, names=["uar"])[0]["uar"] for a, b in zip(ours, theirs, strict=True)])
    for level in (0.05, 0.25, 0.5, 0.75):
        assert abs((values <= level).mean() - level) < 0.05
    assert (values <= 0.05).mean() < 0.08


def test_many_speakers_draw_exchanges_with_the_same_p(monkeypatch):
    a, b = (matrices[0] for matrices in pair(np.random.default_rng(1), 1, 16, gain=0.3))
    drawn, tried = compare.exchanged(a, b)
    assert tried == 10_000
    monkeypatch.setattr(compare, "EXACT", 16)
    exact, tried = compare.exchanged(a, b)
    assert tried == 2**16
    for name, value in exact.items():
        assert 0.001 < value < 0.9
        assert drawn[name] == pytest.approx(value, abs=0.015)


@pytest.mark.parametrize(
    ("speakers", "tried", "says", "smallest"),
    [(3, 8, "all 8", 2 / 2**3), (14, 2**14, "all 16,384", 2 / 2**14), (15, 10_000, "10,000 random", 1 / 10_000)],
)
def test_up_to_14_speakers_all_exchanges_are_counted(speakers, tried, says, smallest):
    right, wrong = (np.stack([matrix] * speakers) for matrix in (np.eye(8), np.eye(8)[::-1]))
    found = compare.differences(wrong, right, resamples=50, names=["accuracy"])
    assert found["p_says"] == f"two-sided, {says} exchanges of both models' answers to whole speakers"
    assert found["smallest_p"] == smallest
    p = found["differences"]["accuracy"]["p"]
    assert p * tried == pytest.approx(round(p * tried))
    # that of all speakers comes to as much, and is among 10,000 that are drawn of 2**15 or is not
    assert p == smallest if tried == 2**speakers else p < 5 / tried


def test_seeds_and_numbers_that_nobody_names_are_those_of_the_documentation():
    a, b = (matrices[0] for matrices in pair(np.random.default_rng(4), 1, 15, gain=0.2))
    found = compare.differences(a, b, names=["accuracy"])
    assert found["ci95_says"] == "95 % bootstrap over 15 test speakers (2,000 resamples, t)"
    assert found == compare.differences(a, b, 2000, 0, ["accuracy"])
    assert found["differences"]["accuracy"]["p"] == compare.exchanged(a, b, names=["accuracy"])[0]["accuracy"]
    other = compare.differences(a, b, 2000, 1, ["accuracy"])["differences"]["accuracy"]
    assert other["difference"] == found["differences"]["accuracy"]["difference"]
    assert other["ci95"] != found["differences"]["accuracy"]["ci95"]
    assert other["p"] != found["differences"]["accuracy"]["p"]


@pytest.mark.parametrize("sign", [1, -1])
def test_bounds_of_a_difference_end_at_1(sign):
    right, wrong = (np.stack([matrix] * 4) for matrix in (np.eye(8), np.eye(8)[::-1]))
    found = compare.differences(*((wrong, right) if sign == 1 else (right, wrong)))["differences"]["accuracy"]
    assert found["difference"] == sign
    inner, outer = sorted(found["ci95"], key=abs)
    assert outer == sign
    assert inner == pytest.approx(sign * (1 - t.ppf(0.975, 3) / 32))  # the spread of one clip of 32


def test_intervals_of_differences_hold_the_truth():
    rng = np.random.default_rng(2)
    ours, theirs = (scores(matrices.sum(1))["uar"] for matrices in pair(rng, 8000, 5, gain=0.4))
    truth, held = (theirs - ours).mean(), 0
    for seed, (a, b) in enumerate(zip(*pair(rng, 300, 5, gain=0.4), strict=True)):
        low, high = compare.differences(a, b, 200, seed, ["uar"])["differences"]["uar"]["ci95"]
        held += low <= truth <= high
    assert 92.5 <= held / 3 <= 97.5  # plain percentiles come to 84


@pytest.mark.parametrize(("speakers", "says"), [(5, "with so few p cannot fall below 0.0625"), (6, "better")])
def test_five_speakers_cannot_prove_a_thing(tmp_path, speakers, says):
    labels, names = np.tile(np.arange(8), 5 * speakers), np.repeat(np.arange(speakers), 40)
    worse = np.where(np.arange(len(labels)) % 3, labels, (labels + 1) % 8)
    report = compare_models(make(tmp_path / "a", labels, worse, names), make(tmp_path / "b", labels, labels, names))
    assert report["differences"]["uar"]["p"] == report["smallest_p"] == 2 / 2**speakers
    assert says in report["verdict"]


def test_two_speakers_give_neither_interval_nor_p(tmp_path):
    labels, names = np.tile(np.arange(8), 10), np.repeat(["x", "y"], 40)
    a, b = (make(tmp_path / name, labels, (labels + i) % 8, names) for i, name in enumerate("ab"))
    report = compare_models(a, b)
    assert report["differences"]["uar"] == {"difference": -1.0, "ci95": None, "p": None}
    assert report["smallest_p"] is None
    assert report["ci95_says"] == "no interval: 2 test speaker(s), at least 3 are needed"
    assert report["verdict"] == "No verdict: 2 test speaker(s), at least 3 are needed."
    assert "no p: 2 test speaker(s)" in comparison_table(report)


def test_one_speaker_with_most_clips_gives_p_without_interval(tmp_path):
    labels, names = np.tile(np.arange(8), 60), np.array(["x"] * 400 + list("abcde") * 16)
    report = compare_models(*(make(tmp_path / name, labels, (labels + i) % 8, names) for i, name in enumerate("ab")))
    assert report["differences"]["uar"]["ci95"] is None
    assert "one of 6 test speakers has 83" in report["ci95_says"]
    assert report["differences"]["uar"]["p"] == 2 / 2**6
    assert "none" in comparison_table(report)


REPORT = {
    "a": {"folder": "runs/a", "model": "tiny", "uar": 0.5, "accuracy": 0.525, "macro_f1": 0.49},
    "b": {"folder": "runs/b", "model": "small", "uar": 0.625, "accuracy": 0.5, "macro_f1": 0.61},
    **{"protocol": "speaker", "protocol_hash": "abc", "fold": 2, "n": 1440, "speakers": 8},
    "differences": {
        "uar": {"difference": 0.125, "ci95": [-0.01, 0.26], "p": 0.0078125},
        "accuracy": {"difference": -0.025, "ci95": None, "p": None},
    },
    **{"ci95_says": "of speakers", "p_says": "of exchanges", "smallest_p": 0.0078125, "verdict": "B is better."},
}


def test_the_table():
    assert (
        comparison_table(REPORT)
        == """\
A  tiny (runs/a)
B  small (runs/b)
speaker fold 2: 1,440 clips of 8 speakers

                 A       B    B - A   95 % interval            p
uar          0.500   0.625   +0.125   [-0.010, +0.260]    0.0078
accuracy     0.525   0.500   -0.025   none                  none

Intervals: of speakers
p: of exchanges; with 8 speakers it cannot fall below 0.00781
B is better."""
    )


def test_the_table_as_latex():
    assert (
        comparison_tex(REPORT)
        == r"""% \usepackage{booktabs}
% A: tiny (runs/a)
% B: small (runs/b)
% speaker fold 2 (abc): 1440 clips of 8 speakers
% Intervals: of speakers. p: of exchanges.
\begin{tabular}{lrrrrr}
\toprule
& A & B & B $-$ A & 95\,\% interval & $p$ \\
\midrule
UAR & 0.500 & 0.625 & $+0.125$ & $-0.010$ to $+0.260$ & 0.0078 \\
accuracy & 0.525 & 0.500 & $-0.025$ & -- & -- \\
\bottomrule
\end{tabular}
"""
    )


@pytest.mark.parametrize(
    ("difference", "p", "verdict"),
    [
        (0.125, 0.05, "B is better: UAR differs by +0.125 [-0.010, +0.260], p = 0.05 over 8 speakers."),
        (-0.125, 0.04, "A is better: UAR differs by -0.125 [-0.010, +0.260], p = 0.04 over 8 speakers."),
        (0.125, 0.051, "No difference that 8 speakers can tell: UAR differs by +0.125 [-0.010, +0.260], p = 0.051."),
    ],
)
def test_5_in_100_decide(difference, p, verdict):
    row = REPORT["differences"]["uar"] | {"difference": difference, "p": p}
    assert compare._verdict(REPORT | {"differences": {"uar": row}}) == verdict


def refused(one, other, *words):
    with pytest.raises(UserError) as caught:
        compare_models(one, other)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_what_cannot_be_compared_is_refused(folders, tmp_path):
    a, b = folders
    labels, names = np.tile(np.arange(8), 40), np.repeat([f"s{i}" for i in range(8)], 40)
    refused(a, tmp_path / "nowhere", "nowhere' has no results.json", "ser-hf evaluate")
    other = make(tmp_path / "other", labels, labels, names, protocol="random", digest="xyz")
    refused(a, other, "'speaker' fold 0 (abc)", "'random' fold 0 (xyz)")
    fewer = make(tmp_path / "fewer", labels[:-2], labels[:-2], names)
    lacks = f"'{fewer}' lacks an answer to clip-0318.wav that '{a}' has: test both on the same clips"
    refused(a, fewer, lacks)
    refused(fewer, a, lacks)
    relabelled = labels.copy()
    relabelled[7] = 0
    relabelled = make(tmp_path / "relabelled", relabelled, labels, names)
    refused(a, relabelled, f"clip-0007.wav has another label in '{a}' than in '{relabelled}'")
    renamed = make(tmp_path / "renamed", labels, labels, names[::-1])
    refused(renamed, a, f"clip-0000.wav has another speaker in '{renamed}' than in '{a}'")
    (b / "predictions.csv").write_text("file,corpus,speaker,label\n1,2,3,happy\n")
    refused(a, b, "no predictions.csv of ser_hf ('predicted')")
    (b / "predictions.csv").write_text("file,corpus,speaker,label,predicted\n")
    refused(a, b, "holds no predictions")
    (b / "predictions.csv").unlink()
    refused(a, b, "b' has no predictions.csv")
    (b / "results.json").write_text("{}")
    refused(a, b, "is no results.json of ser_hf")
