"""Figures of a leaderboard that are worked out by hand; what is never ranked together."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.evidence import write_evidence

from ser_hf.cli.main import main
from ser_hf.evaluation.leaderboard.pages import terminal_table
from ser_hf.evaluation.leaderboard.ranking import build_leaderboard, holm
from ser_hf.evaluation.results import Results

LABELS = [0, 0, 1, 1] * 8  # eight speakers, each with two clips of either label
SPEAKERS = np.repeat([f"s{number}" for number in range(8)], 4)


def wrong(speakers, clip=0):
    """Answers in which one clip of the first so many speakers is taken for the other label."""
    answers = list(LABELS)
    for speaker in range(speakers):
        answers[4 * speaker + clip] = 1 - answers[4 * speaker + clip]
    return answers


def make(folder, answers, **fields):
    return write_evidence(folder, LABELS, answers, SPEAKERS, **fields)


def seeded(seed, model="tiny"):
    return {"base_model": model, "settings": {"mode": "full", "seed": seed}}


@pytest.fixture
def runs(tmp_path):
    """A, right everywhere; B, wrong for every speaker; C, wrong for three."""
    for name, answers in (("b", wrong(8)), ("a", LABELS), ("c", wrong(3))):
        make(tmp_path / "runs" / name, answers)
    return tmp_path / "runs"


def rows_of(board, table=0):
    return {row["name"]: row for row in board["tables"][table]["rows"]}


def test_figures_by_hand(runs):
    board = build_leaderboard([runs])
    (table,) = board["tables"]
    assert [(row["rank"], row["name"]) for row in table["rows"]] == [(1, "a"), (2, "c"), (3, "b")]
    a, c, b = table["rows"]
    # of 16 clips of the first label B has 8 right, C 13; both have all 16 of the second
    assert [row["uar"] for row in (a, b, c)] == pytest.approx([1, (8 / 16 + 1) / 2, (13 / 16 + 1) / 2])
    assert [row["accuracy"] for row in (a, b, c)] == pytest.approx([1, 24 / 32, 29 / 32])
    assert b["macro_f1"] == pytest.approx((2 * 8 / (16 + 8) + 2 * 16 / (16 + 24)) / 2)
    assert (a["p"], a["p_holm"], a["verdict"]) == (None, None, "best")
    # eight alike: only the two exchanges of all come to as much; three alike: a quarter of them
    assert (b["p"], c["p"]) == (2 / 2**8, 2 / 2**3)
    assert (b["difference"], c["difference"]) == pytest.approx((-8 / 32, -3 / 32))
    # three runs are three pairs: the least p times 3, the next times 2
    assert (b["p_holm"], c["p_holm"]) == pytest.approx((3 * 2 / 2**8, 2 * 2 / 2**3))
    assert (b["verdict"], c["verdict"]) == ("worse", "not told apart")
    assert (table["reference"], table["comparisons"], table["smallest_p"]) == ("a", 3, 2 / 2**8)
    assert (table["n"], table["speakers"]) == (32, 8)
    assert "corrected for all 3 pairs of runs (Holm 1979)" in table["p_says"]
    for row in table["rows"]:
        assert row["ci95"] == pytest.approx(Results.load(runs / row["name"] / "results.json").ci95["uar"])
        assert row["difference_ci95"] is None or row["difference_ci95"][0] <= row["difference"]


@pytest.mark.parametrize(
    ("given", "comparisons", "corrected"),
    [
        ([0.01, 0.04, 0.03], 3, [0.03, 0.06, 0.06]),  # 3 · 0.01; 2 · 0.03; 1 · 0.04, but no less than that
        ([0.01], 1, [0.01]),
        ([0.5, 0.001], 3, [1.0, 0.003]),
        ([0.02, 0.02], 3, [0.06, 0.06]),
        ([], 0, []),
    ],
)
def test_holm(given, comparisons, corrected):
    assert holm(given, comparisons) == pytest.approx(corrected)


def test_other_splits_and_datasets_have_tables_of_their_own(runs):
    data = Results.load(runs / "a" / "results.json").data
    make(runs / "other", LABELS, protocol="random", protocol_hash="xyz", held_apart=["samples"])
    make(runs / "fold", LABELS, protocol="emobox-ravdess", folds=6, fold=1, protocol_hash="f1")
    make(runs / "folds", LABELS, protocol="emobox-ravdess", folds=6, fold="all", protocol_hash="f0+f1")
    make(runs / "longer", LABELS, data=data | {"hours": data["hours"] + 1})
    make(runs / "elsewhere", LABELS, dataset="you/voices")
    board = build_leaderboard([runs])
    names = sorted(sorted(row["name"] for row in table["rows"]) for table in board["tables"])
    assert names == [["a", "b", "c"], ["elsewhere"], ["fold"], ["folds"], ["longer"], ["other"]]
    (random,) = (table for table in board["tables"] if table["protocol"] == "random")
    assert random["all_leak"]
    assert random["rows"][0]["rank"] == 1
    assert random["p_says"] == "a test needs two runs with predictions.csv"


def test_a_model_that_saw_the_speakers_has_no_rank(runs):
    make(runs / "leaky", LABELS, held_apart=[], notes=["The model does not say which speakers it was trained on."])
    shutil.rmtree(runs / "a")
    rows = build_leaderboard([runs])["tables"][0]["rows"]
    assert [(row["rank"], row["name"], row["distribution"]) for row in rows] == [
        (1, "c", "new speakers of a corpus that was trained on"),
        (2, "b", "new speakers of a corpus that was trained on"),
        (None, "leaky", "speakers seen"),
    ]
    assert rows[2]["difference"] == pytest.approx(3 / 32)  # better, and tested against the best that held out


@pytest.mark.parametrize(
    ("leaky", "verdict"),
    [(wrong(0), "better"), (wrong(7), "not told apart"), ([1 - label for label in LABELS], "worse")],
)
def test_the_verdict_says_which_way(tmp_path, leaky, verdict):
    make(tmp_path / "honest", wrong(8))
    make(tmp_path / "leaky", leaky, held_apart=[])
    first, second = build_leaderboard([tmp_path])["tables"][0]["rows"]
    assert (first["verdict"], second["rank"], second["verdict"]) == ("best", None, verdict)
    assert (second["p"] <= 0.05) == (verdict != "not told apart")


@pytest.mark.parametrize(
    ("others", "ranks"),
    [
        ({"d": wrong(0, 1)}, [1, 1, 3, 4]),
        ({"d": wrong(3, 1)}, [1, 2, 2, 4]),
        ({"d": wrong(8, 1), "e": wrong(8)}, [1, 2, 3, 3, 3]),
    ],
)
def test_runs_of_one_uar_share_a_rank(runs, others, ranks):
    for name, answers in others.items():
        make(runs / name, answers)
    rows = build_leaderboard([runs])["tables"][0]["rows"]
    assert [row["rank"] for row in rows] == ranks
    assert [row["verdict"] for row in rows].count("best") == 1


@pytest.mark.parametrize("count", [2, 4, 6])
def test_more_pairs_than_the_speakers_can_tell_apart_are_said(tmp_path, count):
    """With eight speakers p is at least 1/128: up to six pairs can come below 0.05."""
    for number in range(count):
        make(tmp_path / f"run-{number}", wrong(8) if number else LABELS)
    board = build_leaderboard([tmp_path])
    told = {row["verdict"] for row in board["tables"][0]["rows"][1:]}
    says = "cannot show any difference at 0.05" in terminal_table(board)
    assert (told, says) == (({"not told apart"}, True) if count > 4 else ({"worse"}, False))


def test_seeds_of_a_recipe_are_one_row(runs):
    for seed, answers in ((42, wrong(8)), (43, wrong(4))):
        make(runs / "tiny" / f"seed-{seed}", answers, training=seeded(seed))
    make(runs / "tiny" / "other", wrong(2), training=seeded(44, "small"))
    board = build_leaderboard([runs])
    rows = rows_of(board)
    assert sorted(rows) == ["a", "b", "c", "tiny", "tiny/other"]
    row = rows["tiny"]
    first, second = (8 / 16 + 1) / 2, (12 / 16 + 1) / 2
    assert (row["seeds"], row["uar"]) == ([42, 43], pytest.approx((first + second) / 2))
    assert row["uar_sd"] == pytest.approx((second - first) / 2**0.5)
    assert row["ci95_says"] == "95 % bootstrap over 8 test speakers, of the mean over 2 seeds"
    # four speakers lose two clips of 64, four lose one: only the extremes come to as much
    assert row["p"] == 2 / 2**8
    assert board["tables"][0]["comparisons"] == 10
    assert len(row["folders"]) == 2


@pytest.mark.parametrize("depth", ["", "evaluation", "a/b"])
def test_an_evaluation_of_a_seed_is_a_copy(tmp_path, depth):
    for seed, answers in ((42, wrong(8)), (43, wrong(4))):
        place = tmp_path / "tiny" / f"seed-{seed}"
        make(place, answers, training=seeded(seed), weights=f"w{seed}")
        if depth:
            make(place / depth, answers, training=seeded(seed), weights=f"w{seed}")
    board = build_leaderboard([tmp_path])
    assert [(row["name"], row["seeds"]) for row in board["tables"][0]["rows"]] == [("tiny", [42, 43])]
    copies = [f"tiny/seed-{seed}/{depth}" for seed in (42, 43) if depth]
    assert [one["folder"] for one in board["left_out"] if not one["failed"]] == copies


@pytest.mark.parametrize(
    ("of_seeds", "shown"),
    [
        ((["all"], ["all"]), ["all"]),
        ((["all", "mean ± sd of seed 42"], ["all", "mean ± sd of seed 43"]), ["all"]),
        ((["leaks"], []), []),
    ],
)
def test_the_notes_of_a_row_hold_of_all_its_seeds(tmp_path, of_seeds, shown):
    for seed, notes in zip((42, 43), of_seeds, strict=True):
        make(tmp_path / f"seed-{seed}", LABELS, training=seeded(seed), notes=notes)
    (table,) = build_leaderboard([tmp_path])["tables"]
    assert (table["rows"][0]["seeds"], table["rows"][0]["notes"], table["notes"]) == ([42, 43], shown, shown)


def test_the_same_seed_twice_is_two_rows(runs):
    for name in ("one", "two"):
        make(runs / name, wrong(5), training=seeded(42))
    assert {"one", "two"} <= set(rows_of(build_leaderboard([runs])))


def test_pooled_seeds_and_folds_count_once(tmp_path):
    half = len(LABELS) // 2
    parts = []
    for seed, answers in ((1, wrong(8)), (2, wrong(4))):
        for fold, part in enumerate((slice(half), slice(half, None))):
            folder = tmp_path / "run" / f"seed-{seed}" / f"fold-{fold}"
            given = (LABELS[part], answers[part], SPEAKERS[part])
            fields = {"fold": fold, "folds": 2, "protocol_hash": f"f{fold}", "training": seeded(seed)}
            write_evidence(folder, *given, **fields)
            parts.append({"folder": f"seed-{seed}/fold-{fold}", "fold": fold})
    keys = ("uar", "accuracy", "macro_f1")
    figures = [dict(zip(keys, row, strict=True)) for row in ((0.75, 0.75, 0.7333333), (0.875, 0.875, 0.873016))]
    repeats = {"seeds": [1, 2], "pooled": figures, "runs": parts}
    fields = {"fold": "all", "folds": 2, "protocol_hash": "f0+f1", "repeats": repeats}
    top = tmp_path / "top"
    make(top, wrong(8), **fields)
    for name in ("results.json", "predictions.csv"):
        shutil.copy(top / name, tmp_path / "run" / name)
    board = build_leaderboard([tmp_path / "run"])
    (table,) = board["tables"]
    (row,) = table["rows"]
    assert (board["parts"], table["under"], row["name"]) == (4, "speaker fold all", "run")
    assert (row["seeds"], row["uar"]) == ([1, 2], 0.8125)
    # without the folders of the seeds, what lies in the folder itself is the first seed's
    (row,) = build_leaderboard([top])["tables"][0]["rows"]
    assert (row["seeds"], row["uar"], row["uar_sd"]) == ([1], 0.75, None)


def test_what_cannot_be_ranked_is_named_with_the_reason(runs, capsys, tmp_path):
    make(runs / "contradicts", wrong(1), uar=0.9)
    others = make(runs / "others", LABELS)
    text = (others / "predictions.csv").read_text()
    (others / "predictions.csv").write_text(text.replace("clip-0003", "clip-9999"))
    broken = make(runs / "broken", LABELS)
    (broken / "results.json").write_text("{}")
    make(runs / "no_csv", wrong(2), csv=False)
    make(runs / "model", wrong(3), weights="w1")
    make(runs / "model" / "evaluation", wrong(3), weights="w1")
    assert main(["leaderboard", str(runs), "--output", str(tmp_path / "board")]) == 3
    printed = capsys.readouterr()
    assert "3 results cannot be ranked" in printed.err
    board = json.loads((tmp_path / "board" / "leaderboard.json").read_text())
    reasons = {one["folder"]: one["reason"] for one in board["left_out"]}
    assert set(reasons) == {"contradicts", "others", str(runs), "model/evaluation"}
    assert re.search(r"comes to uar 0\.9688, results\.json says 0\.9000: run `ser-hf evaluate`", reasons["contradicts"])
    assert "lacks an answer to clip-" in reasons["others"]
    assert "is no results.json of ser_hf" in reasons[str(runs)]
    assert reasons["model/evaluation"] == "has the weights and the answers of model"
    row = rows_of(board)["no_csv"]
    assert (row["rank"], row["p"], row["uar"]) == (2, None, pytest.approx((14 / 16 + 1) / 2))
    for reason in reasons.values():
        assert reason in printed.out


def test_files_and_terminal_say_the_same(runs, tmp_path, capsys):
    make(runs / "b_50%~x|y", wrong(7), notes=["The voices are <synthetic>."])
    assert main(["leaderboard", str(runs), "--output", str(tmp_path / "board")]) == 0
    printed = capsys.readouterr().out
    html, tex, text, table = (
        (tmp_path / "board" / f"leaderboard.{ending}").read_text() for ending in ("html", "tex", "md", "csv")
    )
    rows = list(csv.DictReader(table.splitlines()))
    assert [row["name"] for row in rows] == ["a", "c", "b_50%~x|y", "b"]
    assert float(rows[3]["uar"]) == 0.75
    for row in rows:
        assert f"{float(row['uar']):.3f}" in printed
    assert re.search(
        r"  4 b +0\.750  0\.\d{3} to 0\.\d{3} +0\.750  0\.733 +-0\.250  0\.0078 +0\.0469  worse; ", printed
    )
    assert r"b\_50\%\textasciitilde{}x|y & 0.781" in tex
    assert r"a & \textbf{1.000} & " in tex
    assert "0.906$^{\\dagger}$ & " in tex
    assert r"| 3 | b_50%~x\|y |" in text
    assert "The voices are &lt;synthetic&gt;." in html
    assert "<script" not in html
    assert "http" not in html
    assert html.count('<circle class="dot"') == 4
    assert "with 8 speakers p cannot fall below 0.00781" in printed


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["{runs}/nowhere"], "nowhere' is no folder"),
        (["{runs}/a/../empty"], "holds no results.json"),
        (["{runs}", "--output", "{runs}/a/results.json/board"], "cannot be made"),
        ([], "the following arguments are required: DIR ..."),
    ],
)
def test_mistakes(runs, fails, words, says):
    (runs / "empty").mkdir()
    assert says in fails("leaderboard", *(word.format(runs=runs) for word in words))


def test_several_folders_and_the_same_twice(runs, tmp_path):
    make(tmp_path / "more" / "a", wrong(6))
    board = build_leaderboard([runs, tmp_path / "more", runs / "a"])
    assert sorted(rows_of(board)) == ["more/a", "runs/a", "runs/b", "runs/c"]


@pytest.mark.parametrize("below", ["", "/.", "/tiny"])
def test_folders_of_one_name_are_told_apart(tmp_path, monkeypatch, below):
    monkeypatch.chdir(tmp_path)
    for name, answers in (("mine", LABELS), ("yours", wrong(8))):
        make(tmp_path / name / "runs" / "tiny", answers)
    board = build_leaderboard([Path(f"{name}/runs{below}") for name in ("mine", "yours")])
    assert sorted(rows_of(board)) == ["mine/runs/tiny", "yours/runs/tiny"]


@pytest.mark.parametrize("csv", [True, False])
def test_a_run_of_fewer_clips_is_not_ranked(tmp_path, csv):
    for name in ("a", "b"):
        make(tmp_path / name, LABELS, csv=csv)
    write_evidence(tmp_path / "part", LABELS[:16], LABELS[:16], SPEAKERS[:16], csv=False)
    board = build_leaderboard([tmp_path])
    assert sorted(rows_of(board)) == ["a", "b"]
    assert [one["reason"] for one in board["left_out"]] == [
        "'part' tested 16 clips, 'a' 32: test both on the same clips"
    ]
