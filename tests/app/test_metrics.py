"""What the app counts, as Prometheus reads it, and who may read that."""

import io
import zipfile
from pathlib import Path

import gradio
import numpy as np
import pytest
import soundfile
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

import ser_hf
from ser_hf.app import server, tabs
from ser_hf.app.metrics import REFUSALS, Metrics, endpoint
from ser_hf.app.middleware import API, Access, RequestGuard
from ser_hf.app.uploads import Limits, UploadError
from ser_hf.audio import AudioError, TooLongError
from ser_hf.inference.recordings import TimeoutExceeded
from ser_hf.inference.speaker_adaptation import AdaptationError
from ser_hf.utils.zip_reader import ArchiveError

LIMITS = Limits(per_minute=5, file_mb=1, zip_mb=2, files=4, seconds=30)
HERE, ELSEWHERE = ("127.0.0.1", 50_000), ("203.0.113.7", 50_000)  # the latter of nobody (RFC 5737)
EVIL = {"Origin": "http://evil.example"}


@pytest.fixture(scope="module")
def client(predictor, tmp_path_factory):
    """A program on the machine of the app, which is in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        with TestClient(server.application(predictor, LIMITS), client=HERE) as client:
            yield client


def samples(text, parser=parse):
    """Value of each series, by its name and what its labels say."""
    return {
        (one.name, *sorted(one.labels.items())): one.value
        for family in parser(text)
        for one in family.samples
        if not one.name.endswith("_created")
    }


def read(client):
    answer = client.get("/metrics")
    assert answer.status_code == 200
    return samples(answer.text)


class Changes:
    """What changed of the app's series inside a `with` block."""

    def __init__(self, client):
        self.client = client

    def __enter__(self):
        self.before = read(self.client)
        return self

    def __exit__(self, *_):
        self.after = read(self.client)

    def of(self, name, **labels):
        key = (name, *sorted(labels.items()))
        return self.after.get(key, 0) - self.before.get(key, 0)

    def all(self, name):
        """What changed of one name, by the values of its labels."""
        keys = [key for key in self.after if key[0] == name]
        return {
            tuple(value for _, value in key[1:]): self.after[key] - self.before.get(key, 0)
            for key in keys
            if self.after[key] != self.before.get(key, 0)
        }


def wav(seconds, level=0.0):
    written = io.BytesIO()
    soundfile.write(written, np.full(int(seconds * 8_000), level), 8_000, format="WAV", subtype="PCM_16")
    return written.getvalue()


def counted(predictor, *clips):
    """Labels and reasons that predictions of `clips` must be counted under."""
    labels, reasons = {}, {}
    for name, content in clips:
        answer = predictor.predict({"bytes": content, "path": name})
        reason = ("low_score" if answer["segments"] else "no_voice",)
        place, key = (reasons, reason) if answer["abstained"] else (labels, (answer["label"],))
        place[key] = place.get(key, 0) + 1
    return labels, reasons


def test_known_requests_have_known_values(client, predictor, clips):
    silence = ("silence.wav", wav(1))
    with Changes(client) as changes:
        assert client.post("/predict", files={"file": clips[0]}).status_code == 200
        assert client.post("/predict", files={"file": silence}).json()["abstained"]
        assert client.post("/predict", files={"file": ("notes.wav", b"no sound")}).status_code == 422
        assert client.post("/predict", files={"file": ("long.wav", wav(31))}).status_code == 422
        assert client.post("/predict", files={"file": clips[0]}, headers=EVIL).status_code == 403
    labels, reasons = counted(predictor, clips[0], silence)
    assert changes.all("ser_hf_predictions_total") == labels
    assert changes.all("ser_hf_abstentions_total") == reasons
    assert reasons[("no_voice",)] == 1
    assert changes.all("ser_hf_errors_total") == {("unreadable",): 1, ("too_long",): 1}
    assert changes.all("ser_hf_http_refusals_total") == {("foreign_page",): 1}
    requests = changes.all("ser_hf_http_requests_total")
    assert requests.pop(("/metrics", "GET", "200")) == 1
    assert requests == {
        ("/predict", "POST", "200"): 2,
        ("/predict", "POST", "422"): 2,
        ("/predict", "POST", "403"): 1,
    }
    assert changes.of("ser_hf_http_request_duration_seconds_count", endpoint="/predict") == 5
    assert changes.of("ser_hf_http_request_duration_seconds_bucket", endpoint="/predict", le="120.0") == 5
    assert changes.of("ser_hf_http_request_duration_seconds_sum", endpoint="/predict") > 0
    assert changes.all("ser_hf_task_duration_seconds_count") == {("predict",): 4}
    seconds = predictor.predict({"bytes": clips[0][1], "path": None})["duration"] + 1
    assert changes.of("ser_hf_audio_seconds_total") == pytest.approx(seconds)
    assert {changes.after[("ser_hf_tasks_in_progress", ("task", task))] for task in ("predict", "batch")} == {0}


def test_a_score_below_the_threshold_is_another_reason_than_silence(clips):
    metrics = Metrics()
    answer = {"abstained": True, "segments": [{"label": "sad"}], "label": "sad", "duration": 2.5}
    metrics.answered(answer)
    metrics.answered(answer | {"segments": []})
    metrics.answered(answer | {"abstained": False})
    values = samples(metrics.text()[0].decode())
    assert values[("ser_hf_abstentions_total", ("reason", "low_score"))] == 1
    assert values[("ser_hf_abstentions_total", ("reason", "no_voice"))] == 1
    assert values[("ser_hf_predictions_total", ("label", "sad"))] == 1
    assert values[("ser_hf_audio_seconds_total",)] == 7.5


def test_each_recording_of_a_batch_is_counted(client, predictor, clips):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.wav", clips[1][1])
        archive.writestr("inner.zip", b"PK\5\6" + b"\0" * 18)
    files = [("files", clips[0]), ("files", ("notes.wav", b"no sound")), ("files", ("all.zip", packed.getvalue()))]
    with Changes(client) as changes:
        answers = client.post("/batch", files=files).json()
        refused = client.post("/batch", files=[("files", clips[0])] * 5)
    assert ["error" in answer for answer in answers] == [False, True, False, True]
    assert refused.status_code == 422
    labels, reasons = counted(predictor, *clips[:2])
    assert changes.all("ser_hf_predictions_total") == labels
    assert changes.all("ser_hf_abstentions_total") == reasons
    errors = changes.all("ser_hf_errors_total")
    assert errors.pop(("upload",)) == 1
    assert sum(errors.values()) == 2
    assert changes.all("ser_hf_task_duration_seconds_count") == {("batch",): 2}


def ask_page(client, endpoint_name, name, content):
    """Ask as the page and gradio_client do: upload, join the queue, read the result."""
    sent = client.post(f"{API}/upload", files={"files": (name, content)})
    data = [{"path": sent.json()[0], "orig_name": name, "meta": {"_type": "gradio.FileData"}}]
    config = client.get("/config").json()
    (function,) = [item["id"] for item in config["dependencies"] if item["api_name"] == endpoint_name]
    body = {"data": [data] if endpoint_name == "batch" else data, "fn_index": function, "session_hash": "visitor"}
    assert client.post(f"{API}/queue/join", json=body).status_code == 200
    return client.get(f"{API}/queue/data", params={"session_hash": "visitor"}).text


def test_who_asks_on_the_page_is_counted_too(client, predictor, clips):
    with Changes(client) as changes:
        assert '"success":true' in ask_page(client, "predict", *clips[2])
        assert '"success":true' in ask_page(client, "batch", *clips[2])
        assert '"success":false' in ask_page(client, "timeline", "notes.wav", b"no sound")
    labels, reasons = counted(predictor, clips[2], clips[2])
    assert changes.all("ser_hf_predictions_total") == labels
    assert changes.all("ser_hf_abstentions_total") == reasons
    assert changes.all("ser_hf_errors_total") == {("unreadable",): 1}
    assert changes.all("ser_hf_task_duration_seconds_count") == {("predict",): 2, ("batch",): 1}
    assert changes.of("ser_hf_http_requests_total", method="POST", endpoint=f"{API}/queue/join", status="200") == 3
    # a stream of events stays open until somebody reads all of it
    assert changes.of("ser_hf_http_request_duration_seconds_count", endpoint=f"{API}/queue/data") == 0
    assert changes.after[("ser_hf_queue_waiting", ("queue", "page"))] == 0


def test_what_the_tabs_do_is_counted(predictor, recordings, tmp_path):
    metrics = Metrics()
    with gradio.Blocks() as blocks, gradio.Tab() as tab:
        tabs.add_voice(predictor, Limits(), metrics)
        tabs.add_live(predictor, Limits(), metrics, tab)
        tabs.add_batch(predictor, Limits(), metrics)
    press = {item.fn.__name__: item.fn for item in blocks.fns.values() if item.fn}
    paths = [str(path) for path in sorted(recordings[0].rglob("*.wav"))[:5]]
    press["adapt"](paths)
    press["adapt"]([])
    (tmp_path / "chunk").write_bytes(Path(paths[0]).read_bytes())
    session, _ = press["predict_chunk"](str(tmp_path / "chunk"), None)
    press["predict_chunk"](None, session)  # nothing came
    press["predict_all"](paths[:2], False, lambda *args, **options: None)
    values = samples(metrics.text()[0].decode())
    tasks = {key[1][1]: value for key, value in values.items() if key[0] == "ser_hf_task_duration_seconds_count"}
    assert tasks == {"predict": 0, "batch": 1, "adapt": 2, "live": 1}
    assert values[("ser_hf_errors_total", ("reason", "upload"))] == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TooLongError("x"), "too_long"),
        (AudioError("x"), "unreadable"),
        (TimeoutExceeded("x"), "timeout"),
        (UploadError("x"), "upload"),
        (ArchiveError("x"), "archive"),
        (AdaptationError("x"), "adaptation"),
        (ZeroDivisionError(), "internal"),
    ],
)
def test_errors_are_counted_by_their_kind(error, reason):
    metrics = Metrics()
    with pytest.raises(type(error)), metrics.task("predict"):
        raise error
    values = samples(metrics.text()[0].decode())
    assert {key[1][1]: value for key, value in values.items() if key[0] == "ser_hf_errors_total" and value} == {
        reason: 1
    }
    assert values[("ser_hf_tasks_in_progress", ("task", "predict"))] == 0


@pytest.mark.parametrize(
    ("reason", "status", "ask"),
    [
        ("closed", 404, lambda client: client.get("/wp-login.php")),
        ("foreign_host", 421, lambda client: client.get("/health", headers={"Host": "a b"})),
        ("foreign_page", 403, lambda client: client.get("/metrics", headers=EVIL)),
        ("remote", 403, lambda client: client.get("/metrics", headers={"X-Forwarded-For": "127.0.0.1"})),
        ("malformed", 400, lambda client: client.post(f"{API}/queue/join", content=b"{")),
        ("malformed", 422, lambda client: client.post(f"{API}/queue/join", json={})),
        ("too_big", 413, lambda client: client.post("/predict", content=b"\0" * int(1.5 * 2**20))),
        ("too_big", 413, lambda client: client.post("/batch", content=b"\0" * (5 << 20))),
        ("too_big", 413, lambda client: client.post(f"{API}/queue/join", content=b"\0" * (5 << 20))),
    ],
)
def test_refusals_are_counted_by_reason(client, reason, status, ask):
    with Changes(client) as changes:
        assert ask(client).status_code == status
    assert changes.all("ser_hf_http_refusals_total") == {(reason,): 1}
    assert sum(value for key, value in changes.all("ser_hf_http_requests_total").items() if key[2] != "200") == 1


def test_a_full_queue_too_many_requests_and_the_end_are_told_apart(client, monkeypatch):
    guard = client.app
    with Changes(client) as changes:
        monkeypatch.setattr(guard, "draining", True)
        assert client.post("/predict", content=b"x").status_code == 503
        monkeypatch.setattr(guard, "draining", False)
        for status in [422] * 5 + [429]:
            assert client.post("/predict", content=b"x", headers={"X-Forwarded-For": "a"}).status_code == status
        monkeypatch.setattr(guard, "app", Starlette(routes=[Route("/batch", full, methods=["POST"])]))
        assert client.post("/batch", content=b"x").status_code == 503
        monkeypatch.undo()
    assert changes.all("ser_hf_http_refusals_total") == {("draining",): 1, ("rate",): 1, ("queue_full",): 1}


def full(_):
    return PlainTextResponse("full", 503)


@pytest.mark.parametrize("claimed", ["127.0.0.1", "::1", "127.0.0.1, 127.0.0.1", "localhost"])
def test_who_comes_through_a_proxy_is_not_this_machine(tmp_path, claimed):
    """Behind a proxy that is trusted without a list, a client may claim any address."""
    guard = RequestGuard(Starlette(), Limits(per_minute=2), tmp_path, Access(), None, [], Metrics())
    for client in (HERE, ("::1", 1)):
        ask = TestClient(guard, client=client)
        for name in ("X-Forwarded-For", "X-Real-IP", "Forwarded"):
            assert ask.get("/metrics", headers={name: claimed}).status_code == 403
        statuses = [ask.post("/predict", headers={"X-Forwarded-For": claimed}).status_code for _ in range(3)]
        assert statuses[2] == 429
        assert ask.post("/predict").status_code == 404  # a program on this machine; the app is empty


@pytest.mark.parametrize(
    ("access", "client", "headers", "status"),
    [
        ("none", HERE, {}, 404),
        ("local", HERE, {}, 200),
        ("local", ("::1", 1), {}, 200),
        ("local", ("::ffff:127.0.0.1", 1), {}, 200),  # as `--host ::` shows it
        ("local", ("::ffff:203.0.113.7", 1), {}, 403),
        ("local", ELSEWHERE, {}, 403),
        ("local", HERE, {"X-Forwarded-For": "203.0.113.7"}, 403),
        ("local", HERE, {"Via": "1.1 proxy"}, 403),
        ("local", HERE, EVIL, 403),
        ("all", ELSEWHERE, {}, 200),
        ("all", HERE, {"X-Forwarded-For": "203.0.113.7"}, 200),
        ("all", ELSEWHERE, EVIL, 403),
        ("all", ELSEWHERE, {"Sec-Fetch-Site": "cross-site"}, 403),
        ("all", ELSEWHERE, {"Host": "evil.example"}, 421),
    ],
)
def test_who_may_read_the_metrics(tmp_path, access, client, headers, status):
    metrics = Metrics()

    def answer(_):
        return PlainTextResponse(metrics.text()[0])

    hosts = {"testserver", "localhost"}
    app = Starlette(routes=[Route("/metrics", answer)])
    guard = RequestGuard(app, Limits(), tmp_path, Access(hosts=hosts, metrics=access), None, [], metrics)
    response = TestClient(guard, client=client).get("/metrics", headers=headers)
    assert response.status_code == status
    assert ("ser_hf_http_requests_total" in response.text) == (status == 200)
    assert TestClient(guard, client=HERE).post("/metrics").status_code == 404


def test_the_model_and_the_process_are_described(client, predictor):
    values = read(client)
    labels = {
        "model": predictor.public_name,
        "digest": predictor.session.backend.digest,
        "backend": predictor.backend,
        "version": ser_hf.__version__,
    }
    assert values[("ser_hf_model_info", *sorted(labels.items()))] == 1
    assert values[("process_resident_memory_bytes",)] > 2**20
    assert {key[1][1] for key in values if key[0] == "ser_hf_predictions_total"} == set(predictor.labels)
    assert {key[1][1] for key in values if key[0] == "ser_hf_http_refusals_total"} == set(REFUSALS)


def test_the_start_of_the_model_is_timed():
    metrics = Metrics()
    with metrics.load_seconds.time():
        sum(range(1_000))
    values = samples(metrics.text()[0].decode())
    assert values[("ser_hf_model_load_seconds",)] > 0
    assert values[("ser_hf_model_warm_seconds",)] == 0


def test_both_formats_can_be_read(client):
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert answer.headers["cache-control"] == "no-store"
    wanted = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert wanted.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    for text, parser in ((answer.text, parse), (wanted.text, parse_openmetrics)):
        names = {key[0] for key in samples(text, parser)}
        assert {"ser_hf_predictions_total", "ser_hf_http_request_duration_seconds_bucket"} <= names
    assert all(family.documentation for family in parse(answer.text))


def test_nothing_of_a_visitor_is_told_and_series_do_not_grow(client, clips):
    _, content = clips[0]
    client.request("BREW", "/")
    client.get("/no-such-page")
    before = set(read(client))
    for number in range(20):
        secret = f"secret-{number}"
        client.post("/predict", files={"file": (f"{secret}.wav", b"no sound")}, params={"name": secret})
        for path in (f"/{secret}", f"{API}/heartbeat-{secret}", f"/login/{secret}"):
            client.get(path, headers={"User-Agent": secret, "Host": "a b" if number % 2 else "testserver"})
        client.request(f"BREW{number}", "/")
    client.post("/predict", files={"file": ("secret.wav", content)})
    text = client.get("/metrics").text
    assert "secret" not in text
    assert "BREW" not in text
    new = {key for key in set(samples(text)) - before if key[0] == "ser_hf_http_requests_total"}
    assert {dict(key[1:])["endpoint"] for key in new} <= {"/predict", "other"}
    assert len(new) <= 4


@pytest.mark.parametrize(
    ("path", "template"),
    [
        *((path, path) for path in ("/", "/health", "/metrics", "/predict", "/timeline", "/batch", "/config")),
        *((f"{API}/{name}",) * 2 for name in ("upload", "queue/join", "queue/data", "run/predict", "cancel")),
        ("/config/", "/config"),
        (f"{API}/file=/tmp/a/b/secret.wav", f"{API}/file={{path}}"),
        (f"{API}/heartbeat/abc", f"{API}/heartbeat/{{session}}"),
        (f"{API}/stream/abc", f"{API}/stream/{{event}}"),
        (f"{API}/stream/abc/close", f"{API}/stream/{{event}}/close"),
        (f"{API}/mcp/sse", f"{API}/mcp/{{path}}"),
        ("/assets/index-1f2e.js", "/static/{path}"),
        ("/browser/vendor/a.wasm", "/browser/{path}"),
        (f"{API}/call/predict/0123", "other"),
        ("/predict/secret", "other"),
    ],
)
def test_a_route_is_named_by_its_template(path, template):
    assert endpoint(path) == template


def test_apps_in_one_process_count_for_themselves():
    first, second = Metrics(), Metrics()
    first.refused("closed")
    key = ("ser_hf_http_refusals_total", ("reason", "closed"))
    assert [samples(one.text()[0].decode())[key] for one in (first, second)] == [1, 0]


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError("a bug"), "500"), (ClientDisconnect(), "499"), (ValueError(), "500")]
)
def test_what_ends_without_an_answer_is_counted(tmp_path, error, status):
    async def broken(scope, receive, send):
        raise error

    metrics = Metrics()
    guard = RequestGuard(broken, Limits(), tmp_path, Access(), None, [], metrics)
    with pytest.raises(type(error)):
        TestClient(guard, client=HERE).get("/health")
    values = samples(metrics.text()[0].decode())
    labels = {"endpoint": "/health", "method": "GET", "status": status}
    assert values[("ser_hf_http_requests_total", *sorted(labels.items()))] == 1


def test_the_flags_are_checked(fails, tuned):
    assert "--metrics" in fails("app", "--model", tuned, "--metrics", "everybody")
    for path in ("ser", "/ser/", "/a b", "http://ser.example/ser", "/../a b"):
        assert "--root_path is" in fails("app", "--model", tuned, "--root_path", path)
