"""What is pushed is what strangers load; what must not be pushed is not."""

import hashlib
from itertools import chain, repeat

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from helpers.clients import ABSENT, run
from helpers.loopback_hub import Hub, Repo

from ser_hf import audio
from ser_hf.data.dataset import FEATURES
from ser_hf.hub import repositories
from ser_hf.labels import EMOTIONS

NAME = "you/ravdess-tess"
CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
---
# Tones
"""
LOCAL = ("train/data-00000-of-00001.arrow", "train/dataset_info.json", "dataset_dict.json", "recordings/README.md")
PUSHED = ["README.md", "audit.json", "pictures/counts.png"]

LOADS = (
    ABSENT
    + """
import hashlib, json
from datasets import Audio, load_dataset

for streaming in (False, True):
    rows = load_dataset("you/ravdess-tess", split="train", streaming=streaming)
    rows = rows.cast_column("audio", Audio(decode=False))
    found = {"columns": rows.column_names, "labels": rows.features["label"].names, "rows": list(rows)}
    for row in found["rows"]:
        row["audio"]["bytes"] = hashlib.sha256(row["audio"]["bytes"]).hexdigest()
    print(json.dumps(found))
"""
)


@pytest.fixture
def tones():
    """Seven rows, in an order that no column sorts."""
    rows = []
    for number in (3, 0, 6, 1, 5, 2, 4):
        wave = 0.3 * np.sin(2 * np.pi * (200 + 40 * number) * np.arange(3200) / audio.SAMPLING_RATE)
        pcm = audio.to_pcm(wave.astype(np.float32))
        key = f"03-01-0{number + 1}-01-01-01-0{number + 1}"
        columns = {"corpus": "ravdess", "channel": "speech", "speaker": f"0{number + 1}", "sex": "female"}
        columns |= {"intensity": "normal", "statement": "kids", "repetition": number, "file": f"{key}.wav"}
        stored = {"bytes": audio.to_flac(pcm), "path": f"{key}.flac"}
        digest = hashlib.sha256(pcm.tobytes()).hexdigest()
        rows.append({"audio": stored, "label": number, **columns, "duration": 0.2, "sha256": digest})
    return rows


@pytest.fixture
def folder(tones, tmp_path):
    folder = tmp_path / "dataset"
    for name in (*LOCAL, "README.md", "audit.json", "pictures/counts.png", "pictures/notes.txt", "data/old.arrow"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(CARD if name == "README.md" else "{}")
    write_shards(folder, tones[:4], tones[4:])
    return folder


def write_shards(folder, *shards):
    """Write the Parquet shards of the dataset folder anew; gives their names on the Hub."""
    for old in folder.glob("data/*.parquet"):
        old.unlink()
    for number, rows in enumerate(shards):
        path = folder / f"data/train-{number:05}-of-{len(shards):05}.parquet"
        pa.parquet.write_table(pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema), path)
    return [path.relative_to(folder).as_posix() for path in sorted(folder.glob("data/*.parquet"))]


def test_strangers_load_what_was_pushed(remote, call, folder, tones, tmp_path):
    ((url),) = call(["push_dataset", str(folder), NAME])
    repo = remote.repos["dataset"][NAME]
    assert repo.private
    assert url == f"{remote.url}/datasets/{NAME}/commit/{repo.commits[-1].oid}"
    assert len(repo.commits) == 1
    shards = ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]
    assert sorted(repo.files) == sorted([*PUSHED, *shards])
    assert repo.files == {name: (folder / name).read_bytes() for name in repo.files}

    for row in tones:
        row["audio"]["bytes"] = hashlib.sha256(row["audio"]["bytes"]).hexdigest()
    expected = {"columns": list(FEATURES), "labels": list(EMOTIONS), "rows": tones}
    loaded, streamed = run(remote.environment(tmp_path / "other home"), LOADS, tmp_path)
    assert loaded == expected
    assert streamed == expected


def test_each_push_is_one_commit_that_leaves_no_stale_shard(remote, call, folder, tones):
    others = [".gitattributes", "NOTES.md", "data/x.csv", "data/more/y.parquet"]
    remote.repos["dataset"][NAME] = repo = Repo(True, dict.fromkeys(others, b"mine"))
    first, again = call(["push_dataset", str(folder), NAME], ["push_dataset", str(folder), "ravdess-tess"])
    assert first == again  # nothing has changed: no empty commit
    assert len(repo.commits) == 1
    (folder / "pictures/counts.png").rename(folder / "pictures/lengths.png")
    shard = write_shards(folder, tones)
    (folder / "audit.json").unlink()
    call(["push_dataset", str(folder), NAME])
    assert sorted(repo.files) == sorted([*others, "README.md", "audit.json", "pictures/lengths.png", *shard])
    assert len(repo.commits) == 2


def puts(remote, since=0):
    return [page for method, page in remote.requests[since:] if method == "PUT"]


def test_a_push_that_broke_off_goes_on_where_it_was(remote, call, folder):
    push = ["push_dataset", str(folder), NAME]
    remote.fail["upload"] = chain([None], repeat(403))
    one_line(call(push), NAME, "answered 403")
    repo, first = remote.repos["dataset"][NAME], puts(remote)
    assert len(first) == 2
    assert (repo.commits, repo.files) == ([], {})
    remote.fail, before = {}, len(remote.requests)
    call(push)
    assert puts(remote, before)[0] == first[1]
    assert first[0] not in puts(remote, before)
    assert len(repo.commits) == 1
    assert repo.files == {name: (folder / name).read_bytes() for name in repo.files}
    assert len([name for name in repo.files if name.endswith(".parquet")]) == 2


def test_a_public_repository_takes_the_data_only_when_told_to(remote, call, folder):
    remote.repos["dataset"][NAME] = repo = Repo(private=False)
    push = ["push_dataset", str(folder), NAME]
    one_line(call(push), NAME, "is public", "make it private", "--public")
    assert repo.commits == []
    call([*push, False], ["check_push", "you/new", False])
    assert len(repo.commits) == 1
    assert not remote.repos["dataset"]["you/new"].private


def test_check_push_creates_a_private_repository_and_commits_nothing(remote, call):
    assert call(["check_push", "tones"], ["check_push", "you/tones"]) == ["you/tones", "you/tones"]
    assert remote.repos["dataset"]["you/tones"] == Repo(private=True)


def one_line(answers, name, *words):
    """The one answer must be an error of one line that names the repository and says the words."""
    ((kind, message),) = answers
    assert kind == "HubError"
    assert message.startswith(f"'{name}'")
    assert "\n" not in message
    assert all(word in message for word in words), message


REFUSALS = {  # environment of the client, state of the Hub, name, what the line must say
    "bad token": ({"HF_TOKEN": "hf_wrong"}, {}, NAME, ("answered 401", "HF_TOKEN")),
    "no token": ({"HF_TOKEN": ""}, {}, NAME, ("no token", "`hf auth login`")),
    "token that can only read": ({}, {"role": "read"}, NAME, ("can only read", "may write")),
    "name of another": ({}, {}, "other/tones", ("answered 403", "under your own account")),
    "no large file taken": ({}, {"fail": {"upload": 403}}, NAME, ("answered 403", "a token that may do this")),
    "no commit taken": ({}, {"fail": {"commit": 503}}, NAME, ("answered 503", "again later")),
    "offline mode": ({"HF_HUB_OFFLINE": "1"}, {}, NAME, ("unset HF_HUB_OFFLINE",)),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_the_hub_refuses_is_said_in_one_line(case, remote, call, folder):
    environment, state, name, words = REFUSALS[case]
    vars(remote).update(state)
    remote.repos["dataset"][NAME] = repo = Repo(private=True)
    one_line(call(["push_dataset", str(folder), name], **environment), name, *words)
    assert repo == Repo(private=True)
    assert list(remote.repos["dataset"]) == [NAME]


def test_a_hub_that_does_not_answer_is_said_in_one_line(call, folder):
    with Hub() as gone:
        pass
    answers = call(["push_dataset", str(folder), NAME], HF_ENDPOINT=gone.url)
    one_line(answers, NAME, "cannot be reached", "check the network")


def test_a_card_that_the_hub_rejects_is_said_in_one_line(remote, call, folder):
    (folder / "README.md").write_text("---\nconfigs: [\n---\n")
    one_line(call(["push_dataset", str(folder), NAME]), NAME, "README.md", "mended")
    assert remote.repos["dataset"][NAME].commits == []


@pytest.mark.parametrize("name", ["my dataset", "a/b/c", "", "you/.tones", "you/tones.git", "../tones"])
def test_a_bad_name_is_refused_before_anything_is_asked(name, folder):
    with pytest.raises(repositories.HubError, match="no name for a dataset"):
        repositories.check_push(name)
    with pytest.raises(repositories.HubError, match="no name for a dataset"):
        repositories.push_dataset(folder, name)


@pytest.mark.parametrize("missing", ["README.md", "data/train-00000-of-00001.parquet", ""])
def test_a_folder_that_is_no_dataset_is_refused(missing, folder, tones):
    write_shards(folder, tones)
    folder = folder / "nowhere" if not missing else (folder / missing).unlink() or folder
    with pytest.raises(repositories.HubError, match=r"holds no README.md with data/\*.parquet"):
        repositories.push_dataset(folder, NAME)
