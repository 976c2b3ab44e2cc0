"""The routes of the API, and what the running app keeps of those who ask: of routes nothing."""

import asyncio
import io
import json
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from starlette.testclient import TestClient

from ser_hf import audio
from ser_hf.app import api, page, server
from ser_hf.app.metrics import Metrics
from ser_hf.app.middleware import API
from ser_hf.app.uploads import Limits, UploadedFile

LIMITS = Limits(per_minute=0, file_mb=1, zip_mb=2, files=3, seconds=30)


@pytest.fixture(scope="module")
def client(predictor, tmp_path_factory):
    """A client of an app that the tests share which look at no state of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        with TestClient(server.application(predictor, LIMITS)) as client:
            yield client


@pytest.fixture
def app(predictor, monkeypatch, tmp_path):
    """A client of an app in this process, and the page of the app."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    pages = []
    build_page = page.build_page
    monkeypatch.setattr(page, "MAX_SESSIONS", 20)
    monkeypatch.setattr(page, "build_page", lambda *args: pages.append(build_page(*args)) or pages[-1])
    with TestClient(server.application(predictor, LIMITS)) as client:
        yield client, pages[0]


def expected(predictor, name, content):
    return predictor.predict({"bytes": content, "path": name})


def error_of(response):
    """The message of a refusal, which is one line and names no place on this machine."""
    body = response.json()
    assert body["error"] == body["detail"]
    assert "\n" not in body["error"]
    assert "/tmp" not in body["error"]
    return body["error"]


def packed(**members):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return content.getvalue()


def test_a_form_and_raw_bytes_give_the_bytes_of_the_prediction(client, predictor, clips):
    for name, content in clips:
        text = json.dumps(expected(predictor, name, content)) + "\n"
        form = client.post("/predict", files={"file": (name, content)})
        raw = client.post("/predict", params={"name": name}, content=content)
        assert (form.status_code, form.text) == (raw.status_code, raw.text) == (200, text)
        assert form.headers["content-type"] == "application/json"
    assert client.post("/predict", content=clips[0][1]).json()["file"] is None


def test_the_name_of_the_field_does_not_matter_and_a_path_in_a_name_is_dropped(client, predictor, clips):
    name, content = clips[0]
    response = client.post("/predict", files={"anything": (f"../../{name}", content)})
    assert response.text == json.dumps(expected(predictor, name, content)) + "\n"
    response = client.post("/predict", params={"name": f"/etc/{name}"}, content=content)
    assert response.json()["file"] == name


def test_a_timeline_is_duration_and_segments(client, predictor, recordings):
    files = sorted(recordings[0].rglob("*.wav"))[::34][:6]
    written = io.BytesIO()
    samples = np.concatenate([audio.load(file) for file in files])
    soundfile.write(written, samples, audio.SAMPLING_RATE, format="WAV")
    whole = expected(predictor, "talk.wav", written.getvalue())
    response = client.post("/timeline", files={"file": ("talk.wav", written.getvalue())})
    assert response.json() == {"duration": whole["duration"], "segments": whole["segments"]}
    assert whole["segments"][0]["end"] > 10


def test_a_batch_answers_in_order_with_errors_in_their_place(client, predictor, clips):
    archive = packed(**dict(clips[1:]))
    files = [("files", clips[0]), ("files", ("notes.zip", archive))]
    predictions = [expected(predictor, *clip) for clip in clips]
    assert client.post("/batch", files=files).text == json.dumps(predictions) + "\n"
    response = client.post("/batch", files=[("files", ("notes.wav", b"no sound")), ("files", clips[1])])
    error, prediction = response.json()
    assert list(error) == ["file", "error"]
    assert error["file"] == "notes.wav"
    assert prediction == predictions[1]
    assert client.post("/batch", params={"name": "notes.zip"}, content=archive).json() == predictions[1:]


@pytest.mark.parametrize("route", ["/predict", "/timeline", "/batch"])
def test_what_is_no_recording_is_refused(client, route):
    for request in ({"content": b""}, {"data": {"file": "http://127.0.0.1:9/clip.wav"}, "files": {"x": ("", b"")}}):
        response = client.post(route, **request)
        assert response.status_code == 400
        assert error_of(response).startswith("There is no recording in the request")
    assert client.get(route).status_code == 404


def test_a_recording_that_cannot_be_used_is_named(client, clips):
    _, content = clips[0]
    for file, data in (("notes.wav", b"no sound"), ("cut.flac", content[:30]), ("empty.wav", b"\0")):
        response = client.post("/predict", files={"file": (file, data)})
        assert response.status_code == 422
        assert file in error_of(response)
    response = client.post("/predict", files=[("file", clips[0]), ("file", clips[1])])
    assert (response.status_code, error_of(response)) == (
        422,
        "2 recordings are in the request: send one, or ask /batch",
    )


def test_limits_hold_for_the_routes(client, clips):
    long = io.BytesIO()
    soundfile.write(long, np.zeros(40 * 8_000), 8_000, format="WAV", subtype="PCM_U8")
    response = client.post("/predict", files={"file": ("long.wav", long.getvalue())})
    assert (response.status_code, error_of(response)) == (422, "'long.wav' is longer than 30 s: cut it into parts")
    response = client.post("/batch", files=[("files", clips[0])] * 4)
    assert (response.status_code, error_of(response)) == (422, "4 recordings are more than 3: send them in parts")
    bomb = packed(**{"a.wav": b"\0" * (3 << 20)})
    response = client.post("/batch", files={"files": ("bomb.zip", bomb)})
    assert (response.status_code, error_of(response)) == (422, "3 MB are in the zip, more than 2: send it in parts")


def chunks(megabytes):
    """A body of no declared length."""
    yield from [b"\0" * 2**16] * (16 * megabytes)


@pytest.mark.parametrize("route", ["/predict", "/timeline", "/batch"])
def test_too_large_bodies_are_refused(client, route):
    for request in (
        {"files": {"file": ("large.wav", b"\0" * int(1.5 * 2**20))}},
        {"content": b"\0" * int(1.5 * 2**20)},
        {"content": b"\0" * (5 << 20)},
        {"content": chunks(5)},
    ):
        response = client.post(route, **request)
        assert response.status_code == 413
        assert error_of(response) == "One recording may have 1 MB, all together 2: send less."


def test_a_full_queue_is_said(tuned, clips):
    release, statuses, metrics = threading.Event(), [], Metrics()

    class Slow:
        def predict(self, *_):
            release.wait(10)
            return {"abstained": True, "segments": [], "duration": 1.0}

    async def ask_all():
        routes = api.RecordingRoutes(Slow(), Limits(queue=2), metrics)

        def work():
            return api.predict_file(Slow(), Limits(), metrics, UploadedFile("a.wav", io.BytesIO(b"1")))

        waiting = [asyncio.create_task(routes._respond(work)) for _ in range(api.CONCURRENT + 2)]
        await asyncio.sleep(0.2)
        try:
            with pytest.raises(Exception, match="The queue is full: 2 requests wait") as full:
                await routes._respond(work)
            statuses.append(full.value.status_code)
        finally:
            release.set()
        statuses.extend(response.status_code for response in await asyncio.gather(*waiting))

    asyncio.run(ask_all())
    assert statuses == [503] + [200] * (api.CONCURRENT + 2)


def test_routes_of_two_steps_are_closed_and_name_the_open_ones(client):
    for path in (f"{API}/call/predict", f"{API}/call/v2/predict", f"{API}/run/batch", f"{API}/api/predict"):
        response = client.post(path, json={"data": []})
        assert response.status_code == 404
        assert "curl -F file=@clip.wav to /predict" in error_of(response)
    assert client.get(f"{API}/call/predict/0123").status_code == 404
    # the page needs this route, but nobody passes by the queue
    functions = {item["api_name"]: item["id"] for item in client.get("/config").json()["dependencies"]}
    call = {"data": [None], "fn_index": functions["predict"], "session_hash": "visitor"}
    response = client.post(f"{API}/run/predict", json=call)
    assert (response.status_code, "join the queue" in response.text) == (404, True)


def kept(blocks):
    """The sessions of which anything is kept."""
    holder, queue = blocks.state_holder, blocks._queue
    sessions = (holder.session_data, holder.time_last_used)
    return set().union(*sessions, queue.pending_event_ids_session, queue.pending_messages_per_session)


def call(client, file, session):
    """Predict as the page and gradio_client do: upload, join the queue, read the result."""
    name = Path(file).name
    sent = client.post(f"{API}/upload", files={"files": (name, Path(file).read_bytes())})
    data = [{"path": sent.json()[0], "orig_name": name, "meta": {"_type": "gradio.FileData"}}]
    config = client.get("/config").json()
    (function,) = [item["id"] for item in config["dependencies"] if item["api_name"] == "predict"]
    body = {"data": data, "fn_index": function, "session_hash": session}
    assert client.post(f"{API}/queue/join", json=body).status_code == 200
    return client.get(f"{API}/queue/data", params={"session_hash": session}).text


def test_nothing_is_kept_of_a_request_to_a_route(app, clips, tmp_path):
    client, blocks = app
    before = sorted(tmp_path.rglob("*"))
    for clip in [*clips, ("notes.wav", b"no sound")]:
        client.post("/predict", files={"file": clip})
    assert kept(blocks) == set()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_session_is_kept_once_however_often_it_asks(app, recordings, tmp_path):
    client, blocks = app
    for file in sorted(recordings[0].rglob("*.wav"))[:3]:
        text = call(client, file, "visitor")
        assert '"msg":"process_completed"' in text
        assert '"success":true' in text
    (tmp_path / "notes.wav").write_text("no sound in here")
    assert '"success":false' in call(client, tmp_path / "notes.wav", "visitor")
    assert kept(blocks) == {"visitor"}
    assert blocks._queue.event_ids_to_events == {}
    assert not any(blocks._queue.pending_event_ids_session.values())


def test_no_connection_is_waited_for_when_it_has_ended(app, recordings):
    client, _ = app
    call(client, next(recordings[0].rglob("*.wav")), "visitor")
    left = client.portal.call(lambda: [task.get_coro().__qualname__ for task in asyncio.all_tasks()])
    assert "Event.wait" not in left


def test_requests_are_not_summed_up(app, recordings):
    client, blocks = app
    for file in sorted(recordings[0].rglob("*.wav"))[:3]:
        call(client, file, "visitor")
    assert len(blocks._queue.event_analytics) <= 1
    assert blocks._queue.cached_event_analytics_summary == {"functions": {}}


def test_no_more_than_so_many_visitors_are_remembered(app):
    _, blocks = app
    for number in range(page.MAX_SESSIONS + 5):
        blocks.state_holder[f"visitor-{number}"]
    assert len(blocks.state_holder.session_data) == page.MAX_SESSIONS
    assert "visitor-0" not in blocks.state_holder
