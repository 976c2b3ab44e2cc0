"""Every fold and several seeds: what is pooled, averaged and kept."""

import json
import shutil

import numpy as np
import pytest

from ser_hf import protocols
from ser_hf.cli.main import main
from ser_hf.data import dataset
from ser_hf.evaluation.evaluate import rows_tested
from ser_hf.evaluation.results import PredictionTable, Results

pytestmark = pytest.mark.usefixtures("undrawn")

STEPS = ["--max_steps", "2", "--eval_strategy", "steps", "--eval_steps", "2", "--save_strategy", "steps"]
STEPS += ["--save_steps", "2", "--bf16", "false", "--logging_strategy", "steps", "--logging_steps", "1"]
STEPS += ["--adaptation_head", "false", "--calibrate", "false"]  # nothing here depends on them


def words(built, model, folder, *flags):
    return [str(word) for word in ("finetune", "--dataset", built, "--model", model, "--output_dir", folder, *flags)]


def test_folds_are_pooled_clip_by_clip(few, models, tmp_path, capsys):
    probe = ["--mode", "probe", "--num_train_epochs", "2", "--cache_dir", tmp_path / "cache", "--bf16", "false"]
    folds = ["--protocol", "luna-ravdess", "--fold", "all"]
    assert main(words(few, models["layer"], tmp_path / "m", *probe, *folds)) == 0
    report = json.loads((tmp_path / "m" / "repeats.json").read_text())
    singles = [Results.load(tmp_path / "m" / f"fold-{fold}" / "results.json") for fold in range(5)]
    pooled = Results.load(tmp_path / "m" / "results.json")
    assert (pooled.fold, pooled.n) == ("all", sum(run.n for run in singles))
    assert pooled.confusion_matrix == np.sum([run.confusion_matrix for run in singles], axis=0).tolist()
    uar = [run.uar for run in singles]
    assert [run["uar"] for run in report["runs"]] == uar
    assert [run["folder"] for run in report["runs"]] == [f"fold-{fold}" for fold in range(5)]  # not where they lie
    assert report["over_runs"]["uar"] == {"mean": pytest.approx(np.mean(uar)), "sd": pytest.approx(np.std(uar, ddof=1))}
    assert report["over_seeds"]["uar"]["sd"] is None  # one seed spreads nothing
    assert "mean ± sd over 5 runs: uar" in capsys.readouterr().out
    rows = dataset.load(few)
    splits = protocols.folds(rows, "luna-ravdess", "all")
    kept = (tmp_path / "m" / "predictions.csv").read_text().splitlines()
    assert len(kept) == 1 + pooled.n
    assert kept[1].split(",")[0] == rows[splits[0].test[0]]["file"]
    table = PredictionTable.read(tmp_path / "m" / "predictions.csv")
    right = table.probabilities.argmax(1) == np.array(rows.select(rows_tested(splits))["label"])
    assert right.mean() == pytest.approx(pooled.accuracy)


def test_seeds_are_averaged_and_finished_ones_kept(few, models, tmp_path, fails):
    both = words(few, models["bert"], tmp_path / "m", *STEPS, "--seeds", "2", "--seed", "5")
    assert main(both) == 0
    report = json.loads((tmp_path / "m" / "repeats.json").read_text())
    singles = [Results.load(tmp_path / "m" / f"seed-{seed}" / "results.json") for seed in (5, 6)]
    assert report["seeds"] == [5, 6]
    accuracy = [run.accuracy for run in singles]
    assert report["over_seeds"]["accuracy"]["mean"] == pytest.approx(np.mean(accuracy))
    first, second = ((tmp_path / "m" / f"seed-{seed}" / "model.safetensors").read_bytes() for seed in (5, 6))
    assert first != second
    assert "holds an earlier run" in fails(*both)
    (tmp_path / "m" / "repeats.json").unlink()  # as if it had been killed in the second seed
    shutil.rmtree(tmp_path / "m" / "seed-6")
    before = (tmp_path / "m" / "seed-5" / "results.json").stat().st_mtime_ns
    assert "holds an earlier run" in fails(*both)
    other = (*both, "--resume_from_checkpoint", "true", "--loss", "focal")
    assert "has loss cross_entropy, not focal" in fails(*other)
    assert main([*both, "--resume_from_checkpoint", "true"]) == 0
    assert (tmp_path / "m" / "seed-5" / "results.json").stat().st_mtime_ns == before
    assert (tmp_path / "m" / "seed-6" / "model.safetensors").read_bytes() == second
    assert json.loads((tmp_path / "m" / "repeats.json").read_text())["pooled"] == report["pooled"]


def test_all_folds_of_a_protocol_with_one_is_that_one(few, models, tmp_path):
    assert main(words(few, models["bert"], tmp_path / "m", *STEPS, "--fold", "all")) == 0
    results = Results.load(tmp_path / "m" / "results.json")
    assert (results.protocol, results.fold) == ("speaker", 0)
    assert results.history
    assert (tmp_path / "m" / "model.safetensors").exists()


def test_what_cannot_be_repeated_is_refused(few, models, tmp_path, fails):
    base = words(few, models["bert"], tmp_path / "m")
    assert "leave out the others" in fails(*base, "--search", "2", "--seeds", "2")
    assert "--seeds is 0" in fails(*base, "--seeds", "0")
    assert "--fold is 'every'" in fails(*base, "--fold", "every")
    assert not (tmp_path / "m").exists()
