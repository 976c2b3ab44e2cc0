"""What strangers read names the model as they know it, and no place on the machine that made it."""

import dataclasses
import json
import shutil

import pytest

from ser_hf.evaluation import reports
from ser_hf.evaluation.results import Results
from ser_hf.hub import checks

REPO = "you/voices-2"


@pytest.fixture
def pushed(tuned, tmp_path, monkeypatch):
    """Push a model that was trained under a name, relative to where one was then; gives the card
    and the results."""

    def push(name, revision=None, added=""):
        monkeypatch.chdir(tmp_path)
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        folder = shutil.copytree(tuned, tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoint-*"))
        results = dataclasses.replace(Results.load(folder / "results.json"), model=name)
        results.save(folder / "results.json")
        pictures = [path.name for path in (folder / "plots").glob("*.png")]
        (folder / "README.md").write_text(reports.model_card(results, pictures) + added)
        files = checks.public_files(folder, REPO, revision)
        (folder / "README.md").write_bytes(files["README.md"])
        (folder / "results.json").write_bytes(files["results.json"])
        checks.check_evidence(folder)  # whoever pulls it may push it again
        assert checks.public_files(folder, REPO, revision) == files
        return files["README.md"].decode(), json.loads(files["results.json"])

    return push


@pytest.mark.parametrize("name", ["model", "full", "runs/model", "../model", "/data/runs/model", REPO])
def test_only_what_names_the_model_is_named_anew(name, pushed, tuned, built):
    before = json.loads((tuned / "results.json").read_text())
    card, results = pushed(name)
    assert results["model"] == REPO
    base = before["training"]["base_model"].rsplit("/", 1)[1]
    assert results["dataset"] == built.name
    assert results["training"]["base_model"] == results["training"]["settings"]["base model"] == base
    changed = ("model", "dataset", "training")
    assert {key: results[key] for key in results if key not in changed} == {
        key: before[key] for key in before if key not in changed
    }
    assert results["training"]["settings"]["mode"] == "full"
    assert "# Speech emotion recognition: voices-2" in card
    assert "- name: voices-2" in card
    assert f'model="{REPO}", top_k=None' in card
    assert "The model recognises how actors portray" in card
    assert f"`{built.name}`, of which the protocol uses" in card
    for path in (str(built), before["training"]["base_model"], "runs/", "../"):
        assert path not in card
        assert path not in json.dumps(results)


def test_the_example_on_a_branch_loads_the_branch(pushed):
    card, _ = pushed("model", "trial/2")
    assert card.count(f'model="{REPO}", revision="trial/2", top_k=None') == 1
    assert f'model="{REPO}", top_k=None' in pushed(REPO, "main")[0]


def test_what_somebody_wrote_into_the_card_stays(pushed):
    added = '\nA model of mine.\n\n```python\nload("you/other", revision="old")\n```\nKept in runs/model.\n'
    card, _ = pushed("runs/model", "small", added)
    assert 'A model of mine.\n\n```python\nload("you/other", revision="old")\n```\n' in card
    assert f"Kept in {REPO}." in card
