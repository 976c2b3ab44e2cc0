"""What the running app keeps of those who asked it: nothing of a call, and of visitors no more than
so many."""

import asyncio
import time
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from ser_hf.app import middleware, server
from ser_hf.app.middleware import API
from ser_hf.app.uploads import Limits
from ser_hf.inference.predictor import Predictor


@pytest.fixture
def app(tuned, monkeypatch, tmp_path):
    """A client of an app in this process, and the page of the app."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    gate, blocks = server.application(Predictor(tuned), Limits(per_minute=0))
    with TestClient(gate) as client:
        yield client, blocks


def kept(blocks):
    """The sessions that something is kept of."""
    holder, queue = blocks.state_holder, blocks._queue
    mine = (holder.session_data, holder.time_last_used)
    return set().union(*mine, queue.pending_event_ids_session, queue.pending_messages_per_session)


def forgotten(blocks):
    """Whether nothing is kept, or nothing is any more after a moment."""
    for _ in range(100):
        if not kept(blocks):
            return True
        time.sleep(0.05)
    return False


def begin(client, file, **more):
    """Upload a recording and ask for its prediction; the number of the event."""
    name = Path(file).name
    sent = client.post(f"{API}/upload", files={"files": (name, Path(file).read_bytes())})
    data = [{"path": sent.json()[0], "orig_name": name, "meta": {"_type": "gradio.FileData"}}]
    return client.post(f"{API}/call/predict", json={"data": data, **more}).json()["event_id"]


def test_nothing_is_kept_of_a_call_that_was_answered(app, recordings):
    client, blocks = app
    for file in sorted(recordings[0].rglob("*.wav"))[:3]:
        event = begin(client, file)
        assert kept(blocks) == {event}
        assert "event: complete" in client.get(f"{API}/call/predict/{event}").text
        assert forgotten(blocks)


def test_no_connection_is_waited_for_when_it_has_ended(app, recordings):
    client, _ = app
    event = begin(client, next(recordings[0].rglob("*.wav")))
    client.get(f"{API}/call/predict/{event}")
    left = client.portal.call(lambda: [one.get_coro().__qualname__ for one in asyncio.all_tasks()])
    assert "Event.wait" not in left


def test_requests_are_not_summed_up(app, recordings):
    client, blocks = app
    for file in sorted(recordings[0].rglob("*.wav"))[:3]:
        client.get(f"{API}/call/predict/{begin(client, file)}")
    assert len(blocks._queue.event_analytics) <= 1
    assert blocks._queue.cached_event_analytics_summary == {"functions": {}}


def test_nothing_is_kept_of_one_that_failed(app, tmp_path):
    client, blocks = app
    (tmp_path / "notes.wav").write_text("no sound in here")
    event = begin(client, tmp_path / "notes.wav")
    assert "event: error" in client.get(f"{API}/call/predict/{event}").text
    assert forgotten(blocks)


def test_a_session_that_the_caller_named_goes_on(app, recordings):
    client, blocks = app
    event = begin(client, next(recordings[0].rglob("*.wav")), session_hash="visitor")
    assert "event: complete" in client.get(f"{API}/call/predict/{event}").text
    assert "visitor" in blocks.state_holder


def test_no_more_than_so_many_visitors_are_remembered(app):
    _, blocks = app
    for number in range(middleware.MOST + 5):
        blocks.state_holder[f"visitor-{number}"]
    assert len(blocks.state_holder.session_data) == middleware.MOST
    assert "visitor-0" not in blocks.state_holder
