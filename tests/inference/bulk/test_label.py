"""Recordings labelled: the rows, and what becomes of them when a run is cut off or anything
changes."""

import errno
import hashlib
import json
import os
import shutil
import tarfile
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import datasets
import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from ser_hf import __version__
from ser_hf.cli.label import _said as said_of
from ser_hf.errors import UserError
from ser_hf.inference.bulk import label as labelling
from ser_hf.inference.bulk import reading
from ser_hf.inference.bulk.label import LabelOptions, estimate, label
from ser_hf.inference.bulk.labeler import Labeler, fingerprint
from ser_hf.inference.bulk.store import Store, StoreError
from ser_hf.inference.predictor import Predictor

COUNT = 10  # of files in `archive`


class Interrupted(Exception):
    """What a test cuts a run off with."""


class Breaking:
    """An engine that breaks off after some answers."""

    def __init__(self, labeler, after, error):
        self.labeler, self.after, self.error = labeler, after, error

    def answers(self, units, contents):
        for number, answers in enumerate(self.labeler.answers(units, contents)):
            if number == self.after:
                raise self.error
            yield answers


class Counting:
    """An engine that counts the recordings whose model was asked."""

    def __init__(self, labeler):
        self.labeler, self.asked = labeler, []

    def answers(self, units, contents):
        for answers in self.labeler.answers(units, contents):
            self.asked += [row["file"].rsplit("/", 1)[-1] for row in answers.rows]
            yield answers


def test_rows_are_the_predictions(run, rows, archive, labeler, tmp_path):
    outcome = run()
    assert (outcome.listed, outcome.known, outcome.asked, outcome.errors, outcome.rows) == (COUNT, 0, COUNT, 2, COUNT)
    predictor = Predictor(labeler.predictor.name, device="cpu", backend="torch")
    for name, row in rows().items():
        content = (archive / name).read_bytes()
        assert row["file"] == str(archive / name)
        assert row["sha256"] == hashlib.sha256(content).hexdigest()
        assert (row["model"], row["version"]) == (labeler.digest, __version__)
        if name in ("text.wav", "zero.flac"):
            assert f"'{archive / name}' is " in row["error"]
            assert row["label"] is row["score"] is row["duration"] is row["segments"] is None
            continue
        expected = predictor.predict(str(archive / name))
        assert row["error"] is None
        assert {key: row[key] for key in ("label", "abstained", "duration")} == {
            key: expected[key] for key in ("label", "abstained", "duration")
        }
        scores = {label: row[f"score_{label}"] for label in predictor.labels}
        assert scores == pytest.approx(expected["scores"], abs=1e-6)
        assert [segment["label"] for segment in row["segments"]] == [row["label"]]
        assert row["channels"] == 1


def test_long_recordings_and_channels_are_in_the_rows(run, rows, archive, labeler):
    samples, rate = soundfile.read(archive / "0.wav")
    soundfile.write(archive / "long.wav", np.tile(samples, 8), rate)
    soundfile.write(archive / "stereo.flac", np.stack([samples, samples], 1), rate)
    soundfile.write(archive / "silent.wav", np.zeros(16_000), 16_000)
    run()
    found = rows()
    expected = labeler.predictor.predict(str(archive / "long.wav"))
    assert found["long.wav"]["duration"] > 10
    for ours, theirs in zip(found["long.wav"]["segments"], expected["segments"], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-6)
    assert found["stereo.flac"]["channels"] == 2
    assert found["stereo.flac"]["label"] == found["0.wav"]["label"]
    assert (found["silent.wav"]["abstained"], found["silent.wav"]["segments"]) == (True, [])


def test_others_read_the_output(run, tmp_path, labeler):
    run(shard_rows=4)
    parts = sorted((tmp_path / "out").glob("part-*.parquet"))
    assert [pq.read_metadata(part).num_rows for part in parts] == [4, 4, 2]
    assert pq.ParquetFile(parts[0]).metadata.row_group(0).column(0).compression == "ZSTD"
    loaded = datasets.load_dataset("parquet", data_files=str(tmp_path / "out" / "part-*.parquet"), split="train")
    assert len(loaded) == COUNT
    frame = pd.read_parquet(tmp_path / "out")
    assert frame.error.notna().sum() == 2
    assert frame.filter(like="score_").sum(axis=1, min_count=1).dropna().to_numpy() == pytest.approx(1, abs=1e-5)
    manifest = json.loads((tmp_path / "out" / "_manifest.json").read_text())
    named = {"name": "group", "digest": labeler.digest, "labels": labeler.predictor.labels}
    assert manifest["model"] == named | {"reference": labeler.meter.figures(), "tested": None}
    assert (manifest["rows"], manifest["errors"], manifest["complete"]) == (COUNT, 2, True)
    assert manifest["parts"] == [part.name for part in parts]


@pytest.mark.parametrize("after", [0, 1, 5, 9])
@pytest.mark.parametrize("shard_rows", [1, 3, 100])
def test_a_run_that_is_cut_off_goes_on(run, rows, labeler, tmp_path, after, shard_rows):
    run(output=tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(engine=Breaking(labeler, after, Interrupted()), shard_rows=shard_rows)
    assert not json.loads((tmp_path / "out" / "_manifest.json").read_text())["complete"]
    engine = Counting(labeler)
    outcome = run(engine=engine, shard_rows=shard_rows)
    assert len(engine.asked) == COUNT - after == outcome.asked
    assert rows() == rows(tmp_path / "whole")


def test_what_a_killed_run_left_half_written_is_removed(run, rows, tmp_path):
    run()
    (tmp_path / "out" / ".partial-abc.parquet").write_bytes(b"PAR1 half")
    assert run().asked == 0
    assert not list((tmp_path / "out").glob(".partial*"))
    assert len(rows()) == COUNT


def test_a_second_pass_asks_nothing(run, labeler, monkeypatch):
    run()
    monkeypatch.setattr(reading, "_content", lambda file: pytest.fail(f"{file} was read"))
    outcome = run()
    assert (outcome.known, outcome.asked, outcome.copied, outcome.rows, outcome.errors) == (COUNT, 0, 0, COUNT, 2)


def test_a_changed_recording_is_asked_again(run, rows, labeler, archive):
    run()
    before = rows()
    shutil.copy(archive / "1.wav", archive / "0.wav")
    os.utime(archive / "0.wav", (1, 1))
    shutil.copy(archive / "2.wav", archive / "text.wav")  # it was mended
    engine = Counting(labeler)
    outcome = run(engine=engine, reuse=False)
    assert sorted(engine.asked) == ["0.wav", "text.wav"]
    assert (outcome.rows, outcome.errors) == (COUNT, 1)
    found = rows()
    assert found["0.wav"]["sha256"] == before["1.wav"]["sha256"]
    assert found["0.wav"]["score"] == before["1.wav"]["score"]
    assert found["text.wav"]["error"] is None
    assert {name: found[name] for name in found if name not in ("0.wav", "text.wav")} == {
        name: before[name] for name in before if name not in ("0.wav", "text.wav")
    }


def test_bytes_that_have_an_answer_are_not_asked_again(run, rows, labeler, archive):
    run()
    before = rows()
    os.utime(archive / "0.wav", (1, 1))
    (archive / "1.wav").rename(archive / "moved.wav")
    engine = Counting(labeler)
    outcome = run(engine=engine)
    assert (engine.asked, outcome.copied) == ([], 2)
    found = rows()
    answer = ("sha256", "label", "score", "segments", "duration", "channels", "model")
    for name, other in (("moved.wav", "1.wav"), ("0.wav", "0.wav")):
        assert {key: found[name][key] for key in answer} == {key: before[other][key] for key in answer}
        assert found[name]["file"] == str(archive / name)
    assert found["0.wav"]["stamp"].endswith("-1000000000")


def test_copies_within_a_run_are_asked_once(run, rows, labeler, archive):
    for number in range(30):
        shutil.copy(archive / "0.wav", archive / f"copy-{number:02}.wav")
    engine = Counting(labeler)
    outcome = run(engine=engine, shard_rows=1)
    assert outcome.rows == COUNT + 30
    assert outcome.copied > 0
    assert len(engine.asked) + outcome.copied == COUNT + 30
    assert len({row["score"] for name, row in rows().items() if name.startswith("copy")}) == 1


def test_errors_are_asked_again_where_that_is_wanted(run, rows, labeler, archive):
    run()
    assert run(engine=(engine := Counting(labeler)), retry_errors=True).errors == 2
    assert sorted(engine.asked) == ["text.wav", "zero.flac"]
    assert len(rows()) == COUNT


def test_another_model_is_refused_or_replaces_the_answers(run, rows, models, choice, archive, tmp_path, labeler):
    run()
    before = rows()
    other = replace(choice, model=str(models["layer"]))
    with pytest.raises(UserError) as error:
        label([str(archive)], str(tmp_path / "out"), other)
    assert f"holds answers of the model 'group' ({labeler.digest}), not of 'layer'" in str(error.value)
    assert "--replace_model" in str(error.value)
    second = Labeler(other)
    with pytest.raises(Interrupted):
        label(
            [str(archive)],
            str(tmp_path / "out"),
            other,
            LabelOptions(replace_model=True, shard_rows=1),
            Breaking(second, 4, Interrupted()),
            second,
        )
    outcome = label([str(archive)], str(tmp_path / "out"), other, LabelOptions(replace_model=True), None, second)
    assert (outcome.known, outcome.asked, outcome.rows) == (4, 6, COUNT)
    found = rows()
    assert {row["model"] for row in found.values()} == {second.digest}
    assert found["0.wav"]["score"] != before["0.wav"]["score"]


def test_a_backend_of_another_precision_is_another_model(models, labeler):
    predictor = Predictor(models["group"], device="cpu", backend="torch-bf16")
    assert fingerprint(predictor) != labeler.digest
    predictor = Predictor(models["group"], backend="onnx")
    assert fingerprint(predictor) == labeler.digest
    predictor.abstain_below = 0.4
    assert fingerprint(predictor) != labeler.digest


def test_a_recording_that_vanishes_is_a_row(run, rows, labeler, archive, monkeypatch):
    fetch = reading._content

    def vanish(file):
        if file.endswith("3.wav"):
            os.unlink(file)
        return fetch(file)

    monkeypatch.setattr(reading, "_content", vanish)
    assert run().errors == 3
    assert rows()["3.wav"]["error"] == f"'{archive / '3.wav'}' is not a file: check the path"
    assert rows()["3.wav"]["sha256"] is None


def test_a_lost_file_system_ends_the_run_and_keeps_what_is_done(run, rows, archive, monkeypatch):
    fetch = reading._content

    def lost(file):
        if file.endswith("5.wav"):
            raise OSError(errno.ESTALE, "Stale file handle")
        return fetch(file)

    monkeypatch.setattr(reading, "_content", lost)
    with pytest.raises(UserError, match=r"5\.wav' cannot be reached \(Stale file handle\): run the command again"):
        run()
    assert list(rows()) == ["0.wav", "1.wav", "2.wav", "3.wav", "4.wav"]
    monkeypatch.undo()
    assert run().known == 5
    assert len(rows()) == COUNT


def test_many_recordings_that_are_gone_end_the_run(run, rows, archive, monkeypatch):
    monkeypatch.setattr(labelling, "GONE", 4)
    fetch = reading._content

    def gone(file):
        if file[-5] in "3456":
            raise FileNotFoundError(errno.ENOENT, "No such file", file)
        return fetch(file)

    monkeypatch.setattr(reading, "_content", gone)
    with pytest.raises(UserError, match=r"the last 4 recordings cannot be reached"):
        run()
    assert list(rows()) == ["0.wav", "1.wav", "2.wav"]
    monkeypatch.setattr(labelling, "GONE", 5)
    assert run().errors == 6
    assert len(rows()) == COUNT


def test_many_damaged_containers_are_rows_and_no_lost_mount(run, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(labelling, "GONE", 3)
    (tmp_path / "many").mkdir()
    for number in range(4):
        (tmp_path / "many" / f"{number}.parquet").write_text("no table")
    assert run(tmp_path / "many").errors == 4
    assert all("is damaged or no parquet" in row["error"] for row in rows().values())


def test_an_input_that_turns_out_wrong_keeps_what_is_done(run, rows, labeler):
    with pytest.raises(UserError, match="an actor has gone"):
        run(engine=Breaking(labeler, 3, UserError("an actor has gone")))
    assert len(rows()) == 3


def test_a_full_disk_ends_in_one_line_and_keeps_what_is_done(run, rows, monkeypatch, tmp_path):
    write, tables = Store._write, []

    def full(self, name, content):
        if name.startswith("part"):
            tables.append(name)
            if len(tables) > 2:
                raise StoreError(f"'{self.name}' cannot be written (No space left on device)")
        write(self, name, content)

    monkeypatch.setattr(Store, "_write", full)
    with pytest.raises(UserError, match="No space left on device"):
        run(shard_rows=3)
    assert len(rows()) == 6
    monkeypatch.undo()
    assert run().known == 6
    assert len(rows()) == COUNT


def test_an_output_that_cannot_be_is_refused(run, tmp_path, archive):
    (tmp_path / "file").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("x")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "_manifest.json").write_text('{"format"')
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "_manifest.json").write_text(json.dumps({"format": 9, "version": "9.0", "model": {}}))
    for name, message in (
        ("file", "is a file: name a folder as --output"),
        ("other", "holds other files and no _manifest.json"),
        ("broken", "_manifest.json' cannot be read"),
        ("newer", "was written by ser_hf 9.0 in another format"),
        ("file/x", "is no folder: choose another"),
        ("nothing://x", "cannot be opened (Protocol not known"),
    ):
        with pytest.raises(UserError) as error:
            run(output=name if "://" in name else tmp_path / name)
        assert message in str(error.value)
    assert sorted(path.name for path in (tmp_path / "other").iterdir()) == ["thesis.txt"]


def test_a_damaged_part_is_named(run, tmp_path):
    run()
    (part,) = (tmp_path / "out").glob("part-*.parquet")
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(
        UserError, match=rf"{part.name}' cannot be read .*remove it, and its recordings are asked again"
    ):
        run()
    part.unlink()
    assert run().asked == COUNT


def test_a_part_that_was_removed_is_asked_again_in_a_container(run, rows, archive, tmp_path):
    source = tmp_path / "calls.tar"
    with tarfile.open(source, "w") as file:
        for path in sorted(archive.iterdir()):
            file.add(path, path.name)
    run(source, shard_rows=4)
    sorted((tmp_path / "out").glob("part-*.parquet"))[1].unlink()
    again = run(source, reuse=False)
    assert (again.asked, again.rows, len(rows())) == (4, COUNT, COUNT)
    assert run(source).known == 1


def test_two_runs_do_not_write_to_one_folder(run, tmp_path):
    run()
    with Store(str(tmp_path / "out")).locked(), pytest.raises(UserError, match="another run writes to"):
        run()


def test_addresses_are_read_and_written(run, rows, archive, tmp_path):
    system = fsspec.filesystem("memory")
    for path in archive.iterdir():
        system.pipe(f"/in/{path.name}", path.read_bytes())
    try:
        run(output=tmp_path / "local")
        outcome = run("memory://in", output="memory://result", shard_rows=4)
        assert (outcome.asked, outcome.errors) == (COUNT, 2)
        assert run("memory://in", output="memory://result").known == COUNT
        ours, theirs = rows("memory://result"), rows(tmp_path / "local")
        for name, row in ours.items():
            same = set(row) - {"file", "stamp", "error"}
            assert {key: row[key] for key in same} == {key: theirs[name][key] for key in same}
            assert row["file"] == f"memory:///in/{name}"
    finally:
        system.rm("/in", recursive=True)
        system.rm("/result", recursive=True)


def test_speakers_of_a_list_are_adapted_to(run, rows, archive, labeler, choice, tmp_path, recordings):
    lines = ["file,client"]
    for who, number in (("anna", 5), ("ben", 2)):
        for index, path in enumerate(sorted(recordings[0].rglob("*-0" + str(number) + ".wav"))[:6]):
            shutil.copy(path, archive / f"{who}-{index}.wav")
            lines.append(f"{who}-{index}.wav,{who}")
    lines += ["0.wav,few", "1.wav,"]
    (archive / "list.csv").write_text("\n".join(lines))
    adapting = Labeler(replace(choice, adapt_by="client"))
    arguments = ([str(archive / "list.csv")], str(tmp_path / "out"), replace(choice, adapt_by="client"))
    label(*arguments, labeler=adapting)
    found = rows()
    assert {name: row["adapted"] for name, row in found.items() if not name.startswith(("anna", "ben"))} == {
        "0.wav": False,
        "1.wav": False,
    }
    for who in ("anna", "ben"):
        files = [str(archive / f"{who}-{index}.wav") for index in range(6)]
        expected = labeler.predictor.adapt(files).predict(files)
        for file, one in zip(files, expected, strict=True):
            row = found[file.rsplit("/", 1)[-1]]
            assert (row["speaker"], row["adapted"], row["label"]) == (who, True, one["label"])
            assert row["score"] == pytest.approx(one["score"], abs=1e-6)
    shutil.copy(archive / "0.wav", archive / "anna-3.wav")
    outcome = label(*arguments, labeler=adapting)  # all of anna change with it
    assert (outcome.asked, outcome.known) == (6, 8)
    assert len(rows()) == 14


def test_an_estimate_writes_nothing(choice, archive, tmp_path, run):
    said = estimate([str(archive)], str(tmp_path / "out"), choice)
    assert (said.listed, said.known, said.recordings, said.counted) == (COUNT, 0, COUNT, True)
    assert said.rate > 0
    assert not (tmp_path / "out").exists()
    run()
    assert estimate([str(archive)], str(tmp_path / "out"), choice).rate is None


@pytest.mark.parametrize("kind", ["parquet", "tar", "gone"])
def test_an_estimate_of_inputs_without_an_answer_has_no_rate(choice, archive, tmp_path, kind, monkeypatch):
    source = tmp_path / f"empty.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"audio": pa.array([], pa.binary())}), source)
    elif kind == "tar":
        tarfile.open(source, "w").close()
    else:
        source = archive
        monkeypatch.setattr(reading, "_content", lambda file: fsspec.open(f"{file}.gone", "rb").open())
    said = estimate([str(source)], str(tmp_path / "out"), choice)
    text = said_of(said)
    if kind == "parquet":
        assert (said.rate, text) == (None, "0 of 1 listed are answered: there is nothing to do")
    elif kind == "tar":
        answer = "0 of 1 listed are answered; 0 and those of containers that are not counted would be asked"
        assert (said.rate, text) == (None, answer)
    else:
        assert said.rate > 0
        assert text.startswith("0 of 10 listed are answered; 10 would be asked, at ")


@pytest.mark.parametrize("among", ["folder", "pattern", "address", "address pattern", "whole disk"])
def test_an_output_among_the_inputs_is_no_input(run, archive, among, tmp_path):
    named = {
        "folder": archive,
        "pattern": f"{archive}/**/*",
        "address": f"file://{archive}",
        "address pattern": f"file://{archive}/**/*",
        "whole disk": tmp_path,
    }[among]
    output = archive / "of 2026" / "labels"
    assert run(named, output=output).asked == COUNT
    again = run(named, output=output)
    assert (again.listed, again.known, again.asked) == (COUNT, COUNT, 0)


@pytest.mark.parametrize("fault", ["status", "closed", "short"])
def test_a_server_that_fails_is_a_row(run, rows, archive, tmp_path, fault):
    """What HTTP raises is no `OSError`: a recording has its row, and the others are labelled."""

    class Answering(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def head(self, status=200):
            self.content = (archive / "0.wav").read_bytes()
            self.send_response(status)
            self.send_header("Content-Length", str(len(self.content)))
            self.end_headers()

        do_HEAD = head

        def do_GET(self):
            if self.path == "/good.wav":
                self.head()
                self.wfile.write(self.content)
            elif fault == "status":
                self.send_response(503)
                self.end_headers()
            elif fault == "short":
                self.head()
                self.wfile.write(self.content[:99])

    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        names = ("bad.wav", "bad.tar", "bad.parquet", "good.wav")
        (tmp_path / "list.txt").write_text("".join(f"{address}/{name}\n" for name in names))
        outcome = run(tmp_path / "list.txt")
        server.shutdown()
    assert (outcome.rows, outcome.errors) == (4, 3)
    found = rows()
    assert found["good.wav"]["error"] is None
    assert found["bad.wav"]["error"].startswith(f"'{address}/bad.wav' cannot be read (")
    assert found["bad.wav"]["error"].endswith("): try again")


def test_a_signal_while_rows_are_written_loses_no_recording_of_a_container(run, rows, archive, tmp_path, monkeypatch):
    recordings, source = sorted(archive.iterdir()), tmp_path / "tars"
    source.mkdir()
    for name, members in (("a", recordings[:3]), ("b", recordings[3:])):
        with tarfile.open(source / f"{name}.tar", "w") as file:
            for path in members:
                file.add(path, path.name)
    write = Store.write_part

    def interrupted(store, *arguments):
        monkeypatch.setattr(Store, "write_part", write)
        raise SystemExit(143)

    monkeypatch.setattr(Store, "write_part", interrupted)
    with pytest.raises(SystemExit):
        run(source, shard_rows=4)  # the first archive has ended, and its rows are not there
    assert run(source).asked == COUNT
    assert len(rows()) == COUNT
