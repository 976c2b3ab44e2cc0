"""What came out of a labelling: figures, table, report, and what cannot be summed up."""

import json
import shutil

import numpy as np
import pytest

from ser_hf.cli.main import main
from ser_hf.errors import UserError
from ser_hf.evaluation.label_report import page, verdict
from ser_hf.inference.bulk.label import LabelOptions, label
from ser_hf.inference.bulk.labeler import Labeler, ModelChoice
from ser_hf.inference.bulk.rows import schema
from ser_hf.inference.bulk.store import Store
from ser_hf.inference.bulk.summary import kind_of, summarise, table, wilson
from ser_hf.labels import EMOTIONS

REFERENCE = {"threshold": 2.0, "share": 0.01, "highest_share": 0.05, "held_out": "cross-fitted"}
REFERENCE |= {"clips": 3000, "speakers": 26, "quantile": 0.99, "residual": 1.0, "shrinkage": 0.1}


def row(number, **values):
    """A row of a recording that lasts as many seconds as its number, plus one."""
    label = EMOTIONS[number % 8]
    segments = [{"start": 0.0, "end": 1.0, "label": label, "score": 0.5}]
    answer = {"label": label, "score": 0.5, "abstained": False, "duration": number + 1.0, "segments": segments}
    return {"file": f"/a/{number}.wav", "channels": 1, "adapted": False, "model": "m", **answer, **values}


def failed(number, error):
    return {"file": f"/a/{number}.wav", "error": error, "model": "m", "adapted": False}


@pytest.fixture
def write(tmp_path):
    def write(rows, reference=REFERENCE, complete=True, parts=3):
        store = Store(str(tmp_path / "out"))
        model = {"name": "<b>model", "digest": "m", "labels": list(EMOTIONS), "reference": reference, "tested": None}
        with store.locked():
            for place in range(parts):
                store.write_part(rows[place::parts], schema(list(EMOTIONS)))
            store.write_manifest({"model": model, "complete": complete})
        return str(tmp_path / "out")

    return write


def test_the_figures_are_those_of_the_rows(write):
    rows = [row(number) for number in range(96)]
    rows[0] |= {"abstained": True, "score": 0.2}
    rows[1] |= {"segments": [], "abstained": True, "score": 0.125, "label": "neutral"}
    rows += [row(500, model="older"), row(501, model="older", score=1.0)]
    rows += [
        failed(200, "'/a/200.wav' is 0.05 s long"),
        failed(201, "'/a/201.wav' is 0.01 s long"),
        failed(202, "gone"),
    ]
    summary = summarise(write(rows))
    assert {name: summary[name] for name in ("recordings", "failed", "without_voice", "with_voice", "abstained")} == {
        "recordings": 99,
        "failed": 3,
        "without_voice": 1,
        "with_voice": 95,
        "abstained": 1,
    }
    neutral, calm = summary["labels"]["neutral"], summary["labels"]["calm"]
    assert (neutral["recordings"], neutral["abstained"], calm["recordings"]) == (12, 1, 11)
    assert neutral["mean_score"] == pytest.approx((11 * 0.5 + 0.2) / 12)
    assert neutral["hours"] == pytest.approx(sum(range(1, 97, 8)) / 3600, abs=1e-4)
    assert [(each["kind"], each["recordings"]) for each in summary["errors"]] == [("… is N s long", 2), ("gone", 1)]
    assert summary["durations"]["hours"] == pytest.approx(sum(range(1, 97)) / 3600, abs=1e-4)
    quantiles = summary["durations"]["quantiles"]
    assert (quantiles["0"], quantiles["1"]) == (1, 96)
    assert quantiles["0.5"] == pytest.approx(48, rel=0.02)
    assert [each["recordings"] for each in summary["durations"]["histogram"]] == [0, 1, 2, 6, 20, 30, 37, 0, 0]
    assert summary["channels"] == {"1": 96}
    assert sum(each["n"] for each in summary["scores"]["bins"]) == 95


def test_the_share_outside_has_an_interval(write):
    rows = [row(number, distance=float(number) / 10) for number in range(40)] + [row(50), row(51)]
    drift = summarise(write(rows))["drift"]
    assert (drift["measured"], drift["outside"]) == (40, 19)
    assert drift["ci95"] == pytest.approx(wilson(19, 40))
    assert sum(each["n"] for each in drift["distances"]) == 40
    assert drift["distances"][-1]["n"] == 0


@pytest.mark.parametrize(
    ("count", "of", "low", "high"), [(0, 100, 0, 0.0370), (5, 500, 0.0043, 0.0232), (9, 9, 0.7009, 1)]
)
def test_the_interval_is_that_of_wilson(count, of, low, high):
    assert wilson(count, of) == pytest.approx([low, high], abs=1e-4)


@pytest.mark.parametrize(
    ("ci95", "begins"),
    [
        ([0.0, 0.005], "Fewer"),
        ([0.001, 0.2], "No more"),
        ([0.02, 0.2], "More of these recordings lie outside than of held"),
        ([0.06, 0.2], "More of these recordings lie outside than of any"),
    ],
)
def test_the_verdict_is_by_the_interval(ci95, begins):
    assert verdict({"reference": REFERENCE, "ci95": ci95}).startswith(begins)


@pytest.mark.parametrize(
    ("error", "file", "kind"),
    [
        ("'/a/b 1.wav' lasts 0.01 s: 0.1 s are needed", "/a/b 1.wav", "… lasts N s: N s are needed"),
        ('"/a/it\'s.wav" is empty', "/a/it's.wav", "… is empty"),
        ("'it's.wav' is empty", "it's.wav", "… is empty"),
        ("no file 'x' at 10:20:30\n in `y`", "", "no file … at N in …"),
    ],
)
def test_alike_errors_count_together(error, file, kind):
    assert kind_of(error, file) == kind


def test_the_command_writes_table_json_and_page(write, tmp_path, capsys):
    output = write([row(number, distance=3.0) for number in range(20)] + [failed(30, "<script>")], complete=False)
    assert main(["label-report", output, "--output", str(tmp_path / "report")]) == 0
    said = capsys.readouterr().out
    assert "the run is not finished" in said
    assert "100.0 % of 20 measured lie outside" in said
    content = (tmp_path / "report" / "report.html").read_text()
    assert "<script>" not in content
    assert "<b>model" not in content
    assert "not finished" in content
    assert content.count("data:image/png;base64,") == 3
    assert "http:" not in content
    assert "https:" not in content
    written = json.loads((tmp_path / "report" / "report.json").read_text())
    assert written["drift"]["share"] == 1.0
    assert main(["label-report", output, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == written
    assert {path.name for path in (tmp_path / "out" / "_report").iterdir()} == {"report.html", "report.json"}


@pytest.mark.parametrize("rows", [[], [failed(1, "gone")], [row(1, segments=[])]])
def test_a_labelling_without_answers_has_a_page(write, rows):
    summary = summarise(write(rows, reference={"missing": "no file lies there"}))
    assert "is not known: no file lies there" in table(summary)
    assert "no file lies there" in page(summary)


def no_manifest(folder):
    (folder / "_manifest.json").unlink()


def damaged_part(folder):
    sorted(folder.glob("part-*"))[1].write_bytes(b"PAR1 is not enough PAR1")


def damaged_manifest(folder):
    (folder / "_manifest.json").write_text("{")


def older_manifest(folder):
    (folder / "_manifest.json").write_text('{"format": 1, "version": "0", "model": {"digest": "m"}}')


@pytest.mark.parametrize("damage", [shutil.rmtree, no_manifest, damaged_part, damaged_manifest, older_manifest])
def test_what_cannot_be_summed_up_ends_in_one_line(write, tmp_path, capsys, damage):
    output = write([row(number) for number in range(9)])
    damage(tmp_path / "out")
    assert main(["label-report", output]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(tmp_path / "out") in said
    assert not (tmp_path / "out" / "_report").exists()


def test_an_address_is_read_and_needs_an_output(write, tmp_path, capsys):
    output = f"file://{write([row(number) for number in range(9)])}"
    assert main(["label-report", output]) == 2
    assert "--output DIR" in capsys.readouterr().err
    assert main(["label-report", output, "--output", str(tmp_path / "report")]) == 0
    with pytest.raises(UserError, match=r"holds no _manifest\.json"):
        summarise("memory://nothing")


def test_a_labelling_measures_distances_and_changes_no_answer(tuned, archive, tmp_path):
    labeler = Labeler(choice := ModelChoice(str(tuned), backend="torch", device="cpu", threads=2))
    label([str(archive)], str(tmp_path / "out"), choice, LabelOptions(), None, labeler)
    store = Store(str(tmp_path / "out"))
    rows = [row for name in store.parts for row in store.read_part(name).to_pylist()]
    answered = [row for row in rows if row["segments"]]
    assert answered
    for one in answered:
        prediction = labeler.predictor.predict(one["file"])
        assert one["score"] == np.float32(prediction["score"])
    _, embeddings = labeler.predictor.outputs([np.zeros(16_000, dtype=np.float32)])
    assert all(one["distance"] > 0 for one in answered)
    assert labeler.meter.distance(embeddings[0]) > 0
    assert all(one["distance"] is None for one in rows if not one["segments"])
    drift = summarise(str(tmp_path / "out"))["drift"]
    assert drift["measured"] == len(answered)
    assert drift["held_out_scores"]["protocol"] == "speaker"
