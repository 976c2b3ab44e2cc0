"""Models on the Hub: what a push lets through, branches, pushes that break off, and loading by id
and revision."""

import json
import shutil
from itertools import chain, repeat
from pathlib import Path

import pytest
from helpers.clients import run
from helpers.loopback_hub import Hub, Repo
from safetensors.torch import load_file, save_file

from ser_hf.hub import repositories
from ser_hf.models import loading
from ser_hf.models.loading import ModelError

NAME = "you/voices"
PUSHED = {
    "config.json",
    "preprocessor_config.json",
    "model.safetensors",
    "adaptation_head.safetensors",
    "embedding_reference.safetensors",
    "results.json",
    "LICENSE-BACKBONE",
    "README.md",
}
LOCAL = ("checkpoint", "tensorboard", "predictions")

LOADS = """
import json, sys
from ser_hf.models import loading

for name, revision in json.loads(sys.argv[1]):
    try:
        print(json.dumps(loading.digest(loading.load_for_prediction(name, revision)[0])))
    except loading.ModelError as error:
        print(json.dumps(str(error)))
"""


@pytest.fixture(scope="module")
def variants(tuned, tmp_path_factory):
    """What fine-tuning wrote, changed: other weights in several files, with evidence, and three
    that must not pass."""
    place = tmp_path_factory.mktemp("others")
    folders = {
        name: shutil.copytree(tuned, place / name, ignore=shutil.ignore_patterns("checkpoint-*", "tensorboard"))
        for name in ("sharded", "leaky", "headless", "nameless")
    }
    results = json.loads((tuned / "results.json").read_text())
    model, _, _ = loading.load_for_prediction(tuned)
    model.classifier.bias.data += 0.5
    (folders["sharded"] / "model.safetensors").unlink()
    model.save_pretrained(folders["sharded"], max_shard_size="20KB")
    (folders["sharded"] / "results.json").write_text(json.dumps(results | {"weights": loading.digest(model)}))
    (folders["leaky"] / "results.json").write_text(json.dumps(results | {"held_apart": []}))
    weights = load_file(tuned / "model.safetensors")
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith("classifier")}
    save_file(weights, folders["headless"] / "model.safetensors", {"format": "pt"})
    config = json.loads((tuned / "config.json").read_text())
    config["id2label"] = {str(number): f"LABEL_{number}" for number in range(8)}
    (folders["nameless"] / "config.json").write_text(json.dumps(config))
    return folders


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".json", ".safetensors")}


def test_a_push_takes_the_evidence_along_and_nothing_without_it(remote, call, tuned, variants):
    url, again, *refused = call(
        ["push_model", str(tuned), "voices"],
        ["push_model", str(tuned), NAME],
        *(["push_model", str(variants[name]), f"you/{name}"] for name in ("leaky", "headless", "nameless")),
        ["push_model", str(tuned / "nothing"), NAME],
    )
    repo = remote.repos["model"][NAME]
    assert repo.private
    assert url == again == f"{remote.url}/{NAME}/commit/{repo.commits[-1].oid}"
    assert len(repo.commits) == 1
    assert set(repo.files) >= PUSHED | {"plots/confusion_matrix.png"}
    assert not [name for name in repo.files if name.startswith(LOCAL)]
    assert not [name for name, data in repo.files.items() if bytes(tuned.parent.parent) in data]
    assert b'model="you/voices", top_k=None' in repo.files["README.md"]
    assert json.loads(repo.files["results.json"])["model"] == NAME
    kinds, lines = zip(*refused, strict=True)
    assert kinds == ("ProvenanceError", "ModelError", "ModelError", "HubError")
    assert "not tested on held-out speakers" in lines[0]
    assert f"'{variants['headless']}' has no trained weights for classifier.bias" in lines[1]
    assert f"'{variants['nameless']}' has labels without a meaning (LABEL_0, …)" in lines[2]
    assert f"'{tuned / 'nothing'}' is no folder" in lines[3]
    assert list(remote.repos["model"]) == [NAME]


BRANCH = "trial/2"
NO_BRANCH = {  # a revision that cannot be pushed to, and what the line must say
    "v1": "is a tag",
    "0" * 40: "is a commit",
    "5ca1ab1e": "is a commit",
    "refs/pr/1": "is no name for a branch",
    "a..b": "is no name for a branch",
    "my branch": "is no name for a branch",
}


def test_a_branch_gets_the_model_in_one_commit_even_after_a_break(remote, call, tuned, variants, tmp_path):
    start = {"README.md": b"# Mine", ".gitattributes": b"", "model.safetensors": b"old", "model.txt": b"mine"}
    remote.repos["model"][NAME] = repo = Repo(True, dict(start), tags={"v1": "0" * 40})
    push = ["push_model", str(variants["sharded"]), NAME, True, False]
    remote.fail["upload"] = chain([None, 403], repeat(None))
    broken, url, *refused = call([*push, BRANCH], [*push, BRANCH], *([*push, name] for name in NO_BRANCH))

    assert broken[0] == "HubError"
    assert "answered 403" in broken[1]
    sent = [page for method, page in remote.requests if method == "PUT"]
    assert sent[2] == sent[1]  # what was refused
    assert sent.count(sent[0]) == 1
    assert len([page for method, page in remote.requests if "/commit/" in page]) == 1
    assert (repo.commits, repo.files) == ([], start)
    (_, commit) = repo.branches[BRANCH]
    assert url == f"{remote.url}/{NAME}/commit/{commit.oid}"
    assert "model.safetensors" not in commit.files  # that of main was another model's
    assert {name for name in commit.files if name.endswith(".safetensors")} == {
        path.name for path in variants["sharded"].glob("*.safetensors")
    }
    assert commit.files["model.txt"] == b"mine"
    assert b'model="you/voices", revision="trial/2", top_k=None' in commit.files["README.md"]

    for (kind, line), (name, reason) in zip(refused, NO_BRANCH.items(), strict=True):
        assert kind == "HubError"
        assert line.startswith(f"'{name}' {reason}"), line
        assert NAME in line
    assert list(repo.branches) == [BRANCH]

    # what lies on the branch passes the checks again, and its example forgets the branch when it is
    # pushed to main
    for name, data in commit.files.items():
        (tmp_path / "pulled" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pulled" / name).write_bytes(data)
    call(["push_model", str(tmp_path / "pulled"), "you/pulled"])
    assert b'model="you/pulled", top_k=None' in remote.repos["model"]["you/pulled"].files["README.md"]


def test_a_revision_is_loaded_and_what_cannot_be_is_said_in_one_line(remote, tuned, variants, tmp_path):
    remote.repos["model"] |= {
        NAME: (repo := Repo(True, contents(tuned))),
        "other/gated": Repo(files=contents(tuned), gated=True),
        "you/headless": Repo(True, contents(variants["headless"])),
        "you/nameless": Repo(True, contents(variants["nameless"])),
        "you/bare": Repo(True, {"README.md": b""}),
    }
    head = next(iter(repo.heads().values()))
    repo.tags["v1"], repo.branches[BRANCH] = (
        head.oid,
        [head._replace(oid="1" * 40, files=contents(variants["sharded"]))],
    )
    loads = {
        (NAME, None): (mine := loading.digest(loading.load_for_prediction(tuned)[0])),
        (NAME, "v1"): mine,
        (NAME, head.oid): mine,
        (NAME, BRANCH): (sharded := loading.digest(loading.load_for_prediction(variants["sharded"])[0])),
        (NAME, "1" * 40): sharded,
        (NAME, "v9"): f"model '{NAME}' at 'v9' cannot be loaded (the Hub has no such revision): check the branch, tag",
        ("you/nothing", None): "model 'you/nothing' cannot be loaded (the Hub has none of that name, or hides it",
        ("other/gated", None): "model 'other/gated' cannot be loaded (it is gated): accept the conditions on its page",
        ("you/headless", None): "'you/headless' has no trained weights for classifier.bias: fine-tune it first",
        ("you/nameless", None): "'you/nameless' has labels without a meaning (LABEL_0, …): set id2label",
        ("you/bare", None): "model 'you/bare' cannot be loaded (",
        (str(tuned), "v1"): f"'{tuned}' is a folder and has no revision 'v1': leave out --revision",
    }
    environment = remote.environment(tmp_path / "home")
    lines = run(environment, LOADS, tmp_path, json.dumps(list(loads)))
    for (case, expected), line in zip(loads.items(), lines, strict=True):
        assert line.startswith(expected), (case, line)
        assert "\n" not in line


def test_offline_a_model_that_is_not_in_the_cache_is_said_in_one_line():
    with pytest.raises(ModelError, match=r"'nobody/nothing' cannot be loaded .*unset HF_HUB_OFFLINE"):
        loading.load_for_prediction("nobody/nothing")


@pytest.fixture
def small_files(remote):
    """A model with a card, and one without; weights of neither are worth a download."""
    small = {"README.md": b"# Card", "results.json": b"{}", "config.json": b"{}", "plots/risk.png": b"PNG"}
    remote.repos["model"] |= {
        NAME: Repo(True, small | {"model.safetensors": b"large", "history.json": b"[]"}),
        "you/bare": Repo(True, {"config.json": b"{}", "model.safetensors": b"large"}),
        "other/gated": Repo(files=dict(small), gated=True),
    }
    return small


def files_in(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()
    }


def test_a_snapshot_is_the_small_files_as_far_as_they_exist(remote, call, small_files, tmp_path):
    assert repositories.snapshot(tmp_path) == (tmp_path, None)
    (folder, commit), (bare, _), (again, _) = call(
        ["snapshot", NAME], ["snapshot", "you/bare", "main"], ["snapshot", NAME, "0" * 40]
    )
    assert files_in(folder) == small_files
    assert commit == "0" * 40
    assert folder == again
    assert files_in(bare) == {"config.json": b"{}"}
    assert not [page for _, page in remote.requests if page.endswith("safetensors")]

    with Hub() as gone:
        pass
    (Path(folder) / "plots/risk.png").unlink()  # as if it had never been fetched
    for environment in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": gone.url}):
        ((again, head),) = call(["snapshot", NAME], **environment)
        assert (Path(again).resolve(), head) == (Path(folder).resolve(), commit)


REFUSALS = {  # environment of the client, state of the Hub, model, revision, what the line must say
    "unknown model": ({}, {}, "you/nothing", None, "has none of that name, or hides it"),
    "unknown revision": ({}, {}, NAME, "v9", "has no such revision: check the branch, tag or commit"),
    "no token": ({"HF_TOKEN": ""}, {}, NAME, None, "check the name, or run `hf auth login`"),
    "bad token": ({"HF_TOKEN": "hf_wrong"}, {}, NAME, None, "answered 401"),
    "gated": ({}, {}, "other/gated", None, "it is gated: accept the conditions"),
    "offline, empty cache": ({"HF_HUB_OFFLINE": "1"}, {}, NAME, None, "unset HF_HUB_OFFLINE"),
    "trouble": ({}, {"fail": {"info": 503}}, NAME, None, "in trouble, try again later"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_the_hub_does_not_show_is_said_in_one_line(case, remote, call, small_files):
    environment, state, name, revision, reason = REFUSALS[case]
    vars(remote).update(state)
    ((kind, line),) = call(["snapshot", name, revision], **environment)
    assert kind == "HubError"
    assert line.startswith(f"'{name}'")
    assert reason in line
    assert "\n" not in line
