"""The running app: what it lets in, what it says of itself, and how it ends."""

import asyncio
import http.server
import io
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gradio
import httpx
import numpy as np
import pytest
import soundfile
import uvicorn
from helpers.app import free_port, serving, started
from helpers.small import ROOT
from starlette.applications import Starlette

from ser_hf.app import server, tabs
from ser_hf.app.metrics import Metrics
from ser_hf.app.middleware import API, Access, RequestGuard
from ser_hf.app.server import allowed_hosts, health
from ser_hf.app.uploads import Limits
from ser_hf.inference.predictor import Predictor

ELSEWHERE = "203.0.113.7"  # an address of nobody (RFC 5737), as a proxy on this machine passes it on


@pytest.fixture(scope="module")
def url(tuned):
    """An app with small limits."""
    flags = ("--file_mb", 1, "--seconds", 30, "--per_minute", 6, "--files", 3, "--zip_mb", 2, "--queue", 64)
    with serving("--model", tuned, *flags) as address:
        yield address


@pytest.fixture(scope="module")
def outside():
    """A server on this machine that must never be asked; gives its address and what it was
    asked."""
    requested = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requested.append(self.path)
            self.send_response(200)
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/clip.wav", requested
    server.shutdown()


def ask(url, body=None, method=None, **headers):
    """Status and text of a request; JSON is sent where `body` is no bytes."""
    if body is not None and not isinstance(body, bytes):
        body, headers = json.dumps(body).encode(), {"Content-Type": "application/json"} | headers
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, body, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def upload(url, content, name="clip.wav", **headers):
    form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n\r\n' % name.encode()
    kind = {"Content_Type": "multipart/form-data; boundary=x"}
    return ask(f"{url}{API}/upload", form + content + b"\r\n--x--\r\n", **kind, **headers)


def file_data(path, name="clip.wav"):
    return {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}


def join(url, endpoint, *data, **headers):
    """Join the queue for a named endpoint, as gradio_client does; status, text and the session."""
    session = uuid.uuid4().hex
    functions = {item["api_name"]: item["id"] for item in json.loads(ask(f"{url}/config")[1])["dependencies"]}
    body = {"data": list(data), "fn_index": functions[endpoint], "session_hash": session}
    return *ask(f"{url}{API}/queue/join", body, **headers), session


def call(url, endpoint, *data):
    """Status and the events of a call to a named endpoint."""
    status, text, session = join(url, endpoint, *data)
    return (status, text) if status != 200 else ask(f"{url}{API}/queue/data?session_hash={session}")


def completed(text):
    """The last event of a call."""
    events = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    (event,) = [event for event in events if event["msg"] == "process_completed"]
    return event


def predict(url, content, name="clip.wav"):
    status, text = upload(url, content, name)
    return call(url, "predict", file_data(json.loads(text)[0], name)) if status == 200 else (status, text)


@pytest.fixture(scope="module")
def clip(recordings):
    return next(recordings[0].rglob("*.wav")).read_bytes()


def wav(seconds):
    written = io.BytesIO()
    noise = np.random.default_rng(0).normal(size=int(seconds * 8_000)) * 0.1
    soundfile.write(written, noise, 8_000, format="WAV", subtype="PCM_U8")
    return written.getvalue()


def test_health_says_which_model_and_how_it_was_tested(url, tuned):
    status, text = ask(f"{url}/health")
    answer, results = json.loads(text), json.loads((tuned / "results.json").read_text())
    assert status == 200
    assert answer["status"] == "ok"
    assert answer["model"] == tuned.name
    assert (answer["protocol"], answer["protocol_hash"]) == (results["protocol"], results["protocol_hash"])
    assert answer["leaks_speakers"] is False
    assert answer["limits"]["file_mb"] == 1
    assert str(tuned.parent) not in text


def test_results_from_elsewhere_are_none(tuned, tmp_path):
    (tmp_path / "results.json").write_text('{"accuracy": 0.9}')
    answer = health(Predictor(tuned), Limits(), tmp_path, None)
    assert (answer["protocol"], answer["leaks_speakers"]) == (None, None)
    with gradio.Blocks() as page:
        tabs.add_model(Predictor(tuned), tmp_path)
    (shown,) = page.blocks.values()
    assert "nothing is known of its accuracy" in shown.value


def test_a_call_gives_the_prediction(url, tuned, clip):
    status, text = predict(url, clip)
    assert status == 200
    (answer,) = completed(text)["output"]["data"]
    assert answer == Predictor(tuned).predict({"bytes": clip, "path": "clip.wav"})


def test_what_is_too_large_is_refused_while_it_comes(url):
    for megabytes in (1.5, 5):
        status, text = upload(url, b"\0" * int(megabytes * 2**20))
        assert status == 413
        assert "One recording may have 1 MB, all together 2: send less." in text
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:  # of no declared length
        head = f"POST {API}/upload HTTP/1.1\r\nHost: {host}\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.wav"\r\n\r\n'
        for part in [form, *[b"\0" * 65_536] * 100, b""]:
            connection.sendall(b"%x\r\n%s\r\n" % (len(part), part))
        connection.settimeout(10)
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")
    status, text = ask(f"{url}{API}/queue/join", b'{"data": ["' + b"x" * (4 << 20) + b'"]}')
    assert status == 413


@pytest.mark.parametrize("endpoint", ["predict", "predict_json", "timeline", "batch"])
def test_addresses_are_not_fetched(url, outside, endpoint):
    address, requested = outside
    for path in (address, address.upper(), f" {address}", f"file://{__file__}", "ftp://127.0.0.1/x"):
        data = file_data(path)
        status, text = call(url, endpoint, [data] if endpoint == "batch" else data)
        assert status == 400
        assert "Addresses are not fetched" in text
    body = {"data": [file_data(address)], "session_hash": "abcd1234", "fn_index": 0}
    for route in (f"{API}/queue/join", f"{API}/run/predict"):
        assert ask(url + route, body)[0] == 400
    for route in (f"{API}/call/predict", f"{API}/api/predict", f"{API}/call/v2/predict"):
        assert ask(url + route, body)[0] == 404
    assert ask(f"{url}{API}/proxy={address}")[0] == 404
    assert ask(f"{url}{API}/file={address}")[0] in (403, 404)
    assert requested == []


def test_only_what_was_uploaded_is_read(url, tmp_path, clip):
    (tmp_path / "secret.wav").write_bytes(clip)
    secret = str(tmp_path / "secret.wav")
    for path in (secret, f"{API}/../{secret}", "/etc/passwd", "../../../../../etc/passwd", str(ROOT / "README.md")):
        status, text = call(url, "predict", file_data(path))
        assert status == 400
        assert "Only uploads are read" in text
    quoted = secret.replace("/", "%2F")
    for path in (
        secret,
        quoted,
        quoted.replace("%", "%25"),
        "/etc/passwd",
        "..%2f..%2fetc/passwd",
        str(ROOT / "app.py"),
    ):
        status, text = ask(f"{url}{API}/file={path}")
        assert status in (403, 404), path
        assert "root:" not in text
    folder = Path(json.loads(upload(url, clip)[1])[0]).parent
    (folder / "link.wav").symlink_to(secret)
    assert ask(f"{url}{API}/file={folder / 'link.wav'}")[0] in (403, 404)
    assert call(url, "predict", file_data(str(folder / "link.wav")))[0] == 400
    for path in (5, None, [secret], "a\0b", "~/clip.wav", ""):
        assert call(url, "predict", file_data(path))[0] == 400


def test_errors_name_no_place_on_the_machine(url, clip):
    for content, name in ((b"no sound", "notes.wav"), (clip[:3000], "cut.flac"), (b"", "empty.wav")):
        _, text = predict(url, content, name)
        assert completed(text)["success"] is False
        assert name in text
        assert tempfile.gettempdir() + "/" not in text
        assert "Traceback" not in text
    _, text = predict(url, wav(40), "long.wav")
    assert "'long.wav' is longer than 30 s: cut it into parts" in text


def test_names_cannot_leave_the_folder_or_become_markup(url, clip):
    for name in ("../../../evil.wav", "<img src=x onerror=alert(1)>.wav", "a\\b.wav", "..", "x" * 300 + ".wav"):
        status, text = upload(url, clip, name)
        if status != 200:
            assert status == 400
            continue
        path = Path(json.loads(text)[0])
        assert path.resolve().parent.parent.name.startswith("ser_hf_app-")
        _, answer = call(url, "predict", file_data(str(path), name))
        assert "<img" not in answer


def test_nothing_but_what_the_app_needs_is_there(url):
    for path in (
        *(
            f"{API}/{route}"
            for route in ("proxy=x", "vibe-code", "runs", "run-history/buckets", "dev/reload", "deep_link")
        ),
        *(f"{API}/call/predict/0", f"{API}/openapi.json", "/predict", "/batch", "/timeline"),
        *("/monitoring", "/monitoring/summary", "/docs", "/openapi.json", f"{API}/mcp/", "/login", "/../app.py"),
    ):
        assert ask(url + path)[0] == 404, path
    for path in (f"{API}/vibe-edit", f"{API}/process_recording", "/login", f"{API}/run-history/connect"):
        assert ask(url + path, {})[0] == 404, path
    assert ask(f"{url}/health", method="DELETE")[0] == 404


@pytest.mark.parametrize("body", [b"{", b"[" * 100_000, b"\xff\xfe", b"null", b'{"data": 5}', b"{}"])
def test_malformed_requests_are_answered(url, body):
    status, text = ask(f"{url}{API}/queue/join", body, Content_Type="application/json")
    assert status in (400, 422)
    assert "Traceback" not in text
    assert ask(f"{url}/health")[0] == 200


def test_a_client_that_asks_too_often_waits(url):
    codes = [ask(f"{url}/predict", b"no sound", X_Forwarded_For=ELSEWHERE)[0] for _ in range(8)]
    assert codes[:6] == [422] * 6
    assert codes[6:] == [429] * 2
    assert join(url, "predict", None, X_Forwarded_For=ELSEWHERE)[0] == 429
    request = urllib.request.Request(f"{url}/predict", b"{}", {"X-Forwarded-For": ELSEWHERE})
    with pytest.raises(urllib.error.HTTPError, match="429") as refused:
        urllib.request.urlopen(request)
    assert 1 <= int(refused.value.headers["Retry-After"]) <= 61
    assert "More than 6 requests in a minute" in refused.value.read().decode()
    assert join(url, "predict", None, X_Forwarded_For="203.0.113.8")[0] == 200


def test_other_host_names_are_refused(url):
    assert ask(f"{url}/health", Host="evil.example")[0] == 421
    assert ask(f"{url}/predict", b"no sound", Host="evil.example")[0] == 421
    assert ask(f"{url}/health", Host="localhost:1")[0] == 200
    assert allowed_hosts("0.0.0.0", []) is None
    assert "ser.example" in allowed_hosts("127.0.0.1", ["ser.example"])


def test_too_many_files_and_too_large_zips_are_refused_in_words(url, clip, tmp_path):
    import zipfile

    path = json.loads(upload(url, clip)[1])[0]
    _, text = call(url, "batch", [file_data(path)] * 4)
    assert "4 recordings are more than 3: send them in parts" in text
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("a.wav", b"\0" * (3 << 20))
    packed = json.loads(upload(url, (tmp_path / "bomb.zip").read_bytes(), "bomb.zip")[1])[0]
    _, text = call(url, "batch", [file_data(packed, "bomb.zip")])
    assert "3 MB are in the zip, more than 2: send it in parts" in text


def test_answers_carry_headers_against_abuse(url):
    with urllib.request.urlopen(url) as page:
        assert page.headers["X-Content-Type-Options"] == "nosniff"
        assert page.headers["Referrer-Policy"] == "same-origin"
        assert page.headers["Server"] is None


def start(tuned, *flags, temporary):
    log = temporary / "log"
    log.touch()
    return *started("--model", tuned, *flags, log=log, environment=os.environ | {"TMPDIR": str(temporary)}), log


def test_told_to_end_it_finishes_what_it_accepted(tuned, talk_file, tmp_path):
    dead = tmp_path / "ser_hf_app-999999999-left"
    dead.mkdir()
    app, url, log = start(tuned, temporary=tmp_path)
    assert not dead.exists()  # of a process that was killed
    content = talk_file.read_bytes()
    joined = [join(url, "predict", file_data(json.loads(upload(url, content)[1])[0])) for _ in range(6)]
    with ThreadPoolExecutor(12) as pool:
        results = [pool.submit(ask, f"{url}{API}/queue/data?session_hash={session}") for *_, session in joined]
        responses = [pool.submit(ask, f"{url}/predict?name=clip.wav", content) for _ in range(6)]
        time.sleep(0.3)
        _check_end(app, url, results, responses)
    assert list(tmp_path.glob("ser_hf_app-*")) == []
    said = ("running on", "the model and the page are loaded")
    assert [line for line in log.read_text().splitlines() if not line.startswith(said)] == []


@pytest.mark.parametrize("route", ["/predict", "/batch", f"{API}/upload"])
def test_what_is_not_done_in_time_is_refused_in_words(route, tmp_path):
    async def never(scope, receive, send):
        await asyncio.Event().wait()

    guard = RequestGuard(never, Limits(), tmp_path, Access(), None, [], Metrics())

    async def ask_and_end():
        transport = httpx.ASGITransport(guard)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            asked = asyncio.create_task(client.post(route, content=b"x"))
            while not guard.working:
                await asyncio.sleep(0)
            guard.close()
            return await asked

    response = asyncio.run(ask_and_end())
    assert (response.status_code, response.headers["retry-after"]) == (503, "60")
    assert "shutting down" in response.json()["error"]
    assert guard.working == 0


def _check_end(app, url, results, responses):
    """Tell the app to end while it works; all that it accepted must be answered."""
    idle = urllib.request.urlopen(f"{url}{API}/heartbeat/abcdefgh")  # a tab that somebody left open
    app.send_signal(signal.SIGTERM)
    signalled = time.monotonic()
    time.sleep(0.05)
    refusals = [ask(f"{url}{API}/upload", b"x", Content_Type="multipart/form-data; boundary=x")]
    refusals.append(ask(f"{url}/predict", b"x"))
    for status, text in refusals:
        assert status == 503
        assert "shutting down" in text
    assert app.wait(timeout=15) == 0
    assert time.monotonic() - signalled < 10
    events = [completed(result.result()[1]) for result in results]
    assert all(event["success"] for event in events)
    predictions = [response.result() for response in responses]
    assert {status for status, _ in predictions} == {200}
    texts = {text.strip() for _, text in predictions} | {json.dumps(event["output"]["data"][0]) for event in events}
    assert len(texts) == 1
    idle.close()


@pytest.fixture(scope="module")
def talk_file(recordings, tmp_path_factory):
    """About 30 s."""
    from ser_hf import audio

    path = tmp_path_factory.mktemp("talk") / "talk.wav"
    files = sorted(recordings[0].rglob("*.wav"))[::34][:12]
    soundfile.write(path, np.concatenate([audio.load(file) for file in files]), audio.SAMPLING_RATE)
    return path


def test_uploads_are_deleted_when_their_time_has_come(tuned, clip, tmp_path):
    app, url, _ = start(tuned, "--keep", 1, temporary=tmp_path)
    try:
        path = Path(json.loads(upload(url, clip)[1])[0])
        assert path.read_bytes() == clip
        for _ in range(100):
            if not path.exists():
                break
            time.sleep(0.1)
        assert not path.exists()
    finally:
        app.terminate()
        assert app.wait(timeout=15) == 0


@pytest.mark.parametrize("vanishing", ["before stat", "before unlink", "folder"])
def test_an_upload_that_goes_meanwhile_does_not_end_the_sweep(tmp_path, monkeypatch, vanishing):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "clip.wav").touch()
        os.utime(tmp_path / name / "clip.wav", (0, 0))
    method = "unlink" if vanishing == "before unlink" else "stat"
    before = getattr(Path, method)

    def gone(path, *words, **named):
        if path.name == "clip.wav" and path.parent.name == "a":
            shutil.rmtree(tmp_path / ("b" if vanishing == "folder" else "a"), ignore_errors=True)
        return before(path, *words, **named)

    monkeypatch.setattr(Path, method, gone)
    server.delete_uploads(tmp_path, 60)
    monkeypatch.undo()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("when", ["load", "startup", "main_loop"])
def test_a_signal_at_any_time_of_the_start_ends_the_app(tmp_path, monkeypatch, when):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    guard = RequestGuard(Starlette(), Limits(), tmp_path, Access(), None, [], Metrics())
    config = uvicorn.Config(guard, log_level="warning", lifespan="off")
    app = server.Server(config, guard)
    owner = config if when == "load" else app
    step = getattr(owner, when)

    def signalled(*words, **named):
        os.kill(os.getpid(), signal.SIGTERM)
        return step(*words, **named)

    monkeypatch.setattr(owner, when, signalled)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        asyncio.run(asyncio.wait_for(app.serve([listening]), 20))
    assert guard.draining


def test_mcp_without_its_package_is_said_in_one_line(tuned, fails, monkeypatch):
    monkeypatch.setitem(sys.modules, "mcp", None)
    assert "--mcp needs the package mcp: pip install 'ser-hf[mcp]'" in fails(
        "app", "--model", tuned, "--mcp", "--port", free_port()
    )


def test_limits_are_flags(fails, tuned, capsys):
    from ser_hf.cli.main import main

    with pytest.raises(SystemExit):
        main(["app", "--help"])
    help_text = capsys.readouterr().out
    assert "--per_minute" in help_text
    assert "seconds that one recording may take (default: 60)" in " ".join(help_text.split())
    assert "--seconds is -1: 0 or more is needed" in fails("app", "--model", tuned, "--seconds", "-1")
