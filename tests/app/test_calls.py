"""What is asked of the running app: malformed requests get words, foreign pages nothing."""

import json
import re

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from ser_hf.app import middleware, server
from ser_hf.app.metrics import Metrics
from ser_hf.app.middleware import API, Access
from ser_hf.app.origins import Origins
from ser_hf.app.uploads import Limits
from ser_hf.inference.predictor import Predictor

EVIL = {"Origin": "http://evil.example"}
FRIEND = {"Origin": "https://site.example", "Sec-Fetch-Site": "cross-site"}
FORM = {"Content-Type": "multipart/form-data; boundary=x"}
META = {"_type": "gradio.FileData"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def client(tuned, folder):
    """A client of an app in this process that one other page may ask."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        access = Access(origins=Origins(["https://site.example"]))
        guard = server.application(Predictor(tuned), Limits(per_minute=0, queue=8), access=access)
        with TestClient(guard) as client:
            yield client


@pytest.fixture(scope="module")
def functions(client):
    return {item["api_name"]: item["id"] for item in client.get("/config").json()["dependencies"]}


@pytest.fixture(scope="module")
def uploaded(client):
    """The path of an upload that is no recording."""
    return client.post(f"{API}/upload", files={"files": ("notes.wav", b"no sound")}).json()[0]


def words(response):
    """The message of a refusal: one line, in both fields, without a place on this machine."""
    body = response.json()
    assert body["error"] == body["detail"]
    assert re.fullmatch(r"[^\n]{10,400}", body["error"])
    assert "/tmp" not in body["error"]
    return body["error"]


def join(client, number, data, **more):
    body = {"data": data, "fn_index": number, "session_hash": "visitor"} | more
    return client.post(f"{API}/queue/join", content=json.dumps(body), headers={"Content-Type": "application/json"})


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "HEAD"])
@pytest.mark.parametrize(
    "route",
    [
        *("/predict", "/timeline", "/batch", "/config", "/metrics", f"{API}/upload", f"{API}/queue/join"),
        *(f"{API}/run/predict", f"{API}/app_id"),
        *(f"{API}/queue/data?session_hash=a", f"{API}/heartbeat/a", f"{API}/file=a", f"{API}/info", f"{API}/reset"),
        *(f"{API}/cancel", f"{API}/stream/a", f"{API}/stream/a/close", f"{API}/upload_progress?upload_id=a"),
        *(f"{API}/call/predict", f"{API}/api/predict", f"{API}/component_server", f"{API}/mcp/"),
    ],
)
def test_no_route_answers_a_page_of_another_site(client, folder, route, method):
    before = sorted(folder.rglob("*"))
    for headers in (EVIL, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}, {"Referer": "https://evil.example/a"}):
        content = b"{}" if method == "POST" else None
        response = client.request(method, route, content=content, headers=headers | {"Content-Type": "text/plain"})
        assert response.status_code in (403, 404)  # 404: what nobody may ask
        assert [name for name in response.headers if name.startswith("access-control")] == []
    assert sorted(folder.rglob("*")) == before


def routes_of(app, prefix=""):
    """Method and path of each route of an app and of those mounted in it, with letters for its
    parameters."""
    for route in app.routes:
        if isinstance(route, Mount):
            yield from routes_of(route, prefix + route.path)
            continue
        has_more = hasattr(route, "effective_route_contexts")  # a router of FastAPI
        for one in route.effective_route_contexts() if has_more else [route]:
            path = re.sub(r"\{[^}]*\}", "a", prefix + one.path)
            yield from ((method, path) for method in getattr(one, "methods", None) or ["GET"])


def test_no_route_of_gradio_answers_a_page_of_another_site(client):
    """Those that a page may be linked to from anywhere show nothing of a visitor."""
    shown = {"/", "/health", "/robots.txt", "/favicon.ico", "/manifest.json", "/theme.css", "/static/a", "/assets/a"}
    routes = set(routes_of(client.app.app))
    assert len(routes) > 60
    for method, path in routes:
        for headers in (EVIL, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
            status = client.request(method, path, headers=headers).status_code
            assert status in (403, 404) or (method in ("GET", "HEAD") and path in shown), (method, path, status)


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
@pytest.mark.parametrize(
    "headers", [EVIL, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}]
)
def test_no_page_of_another_site_reaches_the_tools(folder, method, headers):
    guard = middleware.RequestGuard(Starlette(), Limits(), folder, Access(mcp=True), None, [], Metrics())
    for route in (f"{API}/mcp/", f"{API}/mcp/sse"):
        assert TestClient(guard).request(method, route, headers=headers).status_code == 403


def test_the_page_may_be_visited_from_anywhere_and_read_by_nobody(client):
    for route in ("/", "/health", "/robots.txt", "/theme.css"):
        response = client.get(route, headers=EVIL | {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"})
        assert response.status_code == 200
        assert "access-control-allow-origin" not in response.headers
        assert response.headers["cross-origin-resource-policy"] == "same-origin"


def test_a_page_that_is_named_asks_and_reads_the_answer(client, recordings):
    content = next(recordings[0].rglob("*.wav")).read_bytes()
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    for route in ("/predict", f"{API}/queue/join"):
        preflight = client.options(route, headers=FRIEND | asked)
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-origin"] == "https://site.example"
        assert preflight.headers["access-control-allow-headers"] == "content-type"
        assert "POST" in preflight.headers["access-control-allow-methods"]
    answer = client.post("/predict", content=content, headers=FRIEND)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://site.example"
    assert "Origin" in answer.headers["vary"]
    refused = client.post("/predict", content=b"no sound", headers=FRIEND)
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (422, "https://site.example")


def test_preflight_of_programs_says_what_a_route_takes(client):
    response = client.options("/predict")
    assert (response.status_code, response.headers["allow"]) == (204, "POST, OPTIONS")
    assert "access-control-allow-origin" not in response.headers


def test_results_and_uploads_stay_in_no_store(client, uploaded, recordings):
    content = next(recordings[0].rglob("*.wav")).read_bytes()
    for response in (
        client.get("/"),
        client.get(f"{API}/file={uploaded}"),
        client.post("/predict", content=content),
        client.post("/predict", content=b"no sound"),
        client.post("/batch", content=content),
        client.post(f"{API}/upload", files={"files": ("a.wav", content)}),
        client.get(f"{API}/queue/data?session_hash=nobody"),
        client.get(f"{API}/heartbeat/?"),
    ):
        assert response.headers["cache-control"] == "no-store"
    assert client.get("/theme.css").headers.get("cache-control") != "no-store"


def test_the_policy_lets_nothing_run_but_what_the_page_holds(client, uploaded):
    page = client.get("/")
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["form-action"] == "'none'"
    assert policy["base-uri"] == "'self'"
    assert policy["frame-ancestors"] == "https://site.example"
    assert "unsafe-inline" not in policy["script-src"]
    assert (
        re.findall(r"https?:|\*", " ".join(value for name, value in policy.items() if name != "frame-ancestors")) == []
    )
    assert len(re.findall(r"'sha256-", policy["script-src"])) == len(re.findall(r"<script(?![^>]* src)", page.text)) + 1
    data = client.get(f"{API}/file={uploaded}").headers["content-security-policy"]
    assert data.startswith("default-src 'none'")
    assert data.endswith("sandbox")


def test_crawlers_are_refused(client):
    assert client.get("/robots.txt").text == "User-agent: *\nDisallow: /\n"


FILE_DATA = [
    *(["x"], [5], [True], [[]], [{}], [{"meta": {}}], [{"meta": META}], [{"path": None, "url": "data:,x"}]),
    *([], ["x", "y"], [[{"path": "UPLOAD", "meta": META}]], [{"path": "UPLOAD"}], [{"path": "UPLOAD", "meta": None}]),
    *([{"path": "UPLOAD", "meta": META, "size": "x"}], [{"path": "UPLOAD", "meta": META, "orig_name": 5}]),
    *([{"path": "FOLDER", "meta": META}], [{"path": "FOLDER/gone.wav", "meta": META}], [{"path": "a", "meta": META}]),
    *([{"path": "FOLDER/" + "x" * 5000, "meta": META}], [{"path": "FOLDER/\ud800.wav", "meta": META}]),
]


@pytest.mark.parametrize("data", FILE_DATA, ids=[json.dumps(data)[:40] for data in FILE_DATA])
def test_malformed_data_gets_words_and_no_traceback(client, functions, folder, uploaded, capfd, data):
    data = json.loads(json.dumps(data).replace("UPLOAD", uploaded).replace("FOLDER", str(folder)))
    for name in ("predict", "timeline"):
        response = join(client, functions[name], data)
        assert response.status_code in (400, 422)
        words(response)
    assert capfd.readouterr().err == ""


def test_every_function_of_the_page_refuses_what_it_cannot_take(client, functions, capfd):
    for function in client.get("/config").json()["dependencies"]:
        wanted = len(function["inputs"])
        for data in ([None] * (wanted + 1), None, "x", {"a": 1}, 5, *([[5.5] * wanted] if wanted else [])):
            words(response := join(client, function["id"], data))
            assert response.status_code == 422
    assert words(join(client, functions["batch"], ["x"])).startswith("recordings must be a list of uploads")
    assert words(join(client, functions["predict"], [])) == (
        "data has 0 values, 1 are needed: one for each input (recording)."
    )
    assert words(join(client, functions["predict_json"], [None, ["a"]])) == "name must be text."
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"",
            b"{",
            b"[]",
            b"5",
            b'"x"',
            b"null",
            b"{}",
            b"\xff\xfe",
            b"[" * 100_000,
            b'{"a":' * 5000 + b"1" + b"}" * 5000,
        ),
        *(b"1e999", b"9" * 6000, b'{"data": [NaN], "fn_index": 0, "session_hash": "a"}'),
        *(
            b'{"data": [], "fn_index": %s, "session_hash": "a"}' % n
            for n in (b"-1", b"99", b'"1"', b"true", b"1.0", b"null")
        ),
        *(
            b'{"data": [null], "fn_index": 0, "session_hash": %s}' % s
            for s in (b"5", b"null", b'""', b'"\\u0000"', b'"\\ud800"')
        ),
        b'{"data": [null], "fn_index": 0, "session_hash": "a", "trigger_id": 1e999}',
    ],
)
def test_malformed_bodies_get_words_and_no_traceback(client, capfd, body):
    for route in ("queue/join", "run/predict"):
        response = client.post(f"{API}/{route}", content=body, headers={"Content-Type": "application/json"})
        assert response.status_code in (400, 422)
        words(response)
    for route in ("reset", "cancel", "stream/nothing"):
        response = client.post(f"{API}/{route}", content=body, headers={"Content-Type": "application/json"})
        assert response.status_code in (400, 404, 422)
        words(response)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
def test_json_comes_as_json(client, functions, kind):
    body = json.dumps({"data": [None], "fn_index": functions["predict"], "session_hash": "a"})
    response = client.post(f"{API}/queue/join", content=body, headers={"Content-Type": kind})
    assert (response.status_code, words(response)) == (
        422,
        "The body must be JSON, with the header Content-Type: application/json.",
    )


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b"", FORM),
        (b"garbage", FORM),
        (b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.wav"\r\n\r\nabc', FORM),  # breaks off
        (b'--x\r\nContent-Disposition: form-data; name="files"\r\n\r\nabc\r\n--x--\r\n', FORM),  # no file
        (b'--x\r\nContent-Disposition: form-data; name="other"\r\n\r\nabc\r\n--x--\r\n', FORM),
        (b"--x\r\nX: y\r\n\r\nabc\r\n--x--\r\n", FORM),
        (b"abc", {"Content-Type": "multipart/form-data"}),
        (b"{}", {"Content-Type": "application/json"}),
        (b"abc", {}),
    ],
)
def test_malformed_uploads_get_words(client, content, headers):
    response = client.post(f"{API}/upload", content=content, headers=headers)
    assert response.status_code == 400
    words(response)


@pytest.mark.parametrize(
    ("route", "headers", "status"),
    [
        ("/?page=x", {}, 404),
        ("/?deep_link=x", {}, 404),
        (f"/assets/{'x' * 300}", {}, 404),
        ("/static/%00", {}, 404),
        (f"{API}/file=%00", {}, 403),
        (f"{API}/file={'x/' * 3000}", {}, 403),
        (f"{API}/queue/data", {}, 200),
        (f"{API}/queue/data?session_hash=nobody", {}, 200),
        ("/", {"X-Forwarded-Host": "a b\xff"}, 200),
        ("/", {"X-Forwarded-Host": "evil.example/<script>"}, 200),
        ("/", {"X-Gradio-Server": "javascript:alert(1)"}, 200),
        ("/", {"Host": "a b"}, 421),
        ("FILE", {"Range": "bytes=" + ",".join(["0-0"] * 2000)}, 200),
        ("FILE", {"Range": "bytes=0-" + "9" * 5000}, 200),
        ("FILE", {"Range": "lines=x"}, 200),
        ("FILE", {"Range": "bytes=0-1"}, 206),
        ("FILE", {"Range": "bytes=99-100"}, 416),
        ("/batch?one_speaker=maybe", {}, 422),
    ],
)
def test_odd_addresses_and_headers_get_words(client, uploaded, capfd, route, headers, status):
    route = route.replace("FILE", f"{API}/file={uploaded}")
    headers = {name: value.encode("latin-1") for name, value in headers.items()}
    response = client.post(route, content=b"x") if route.startswith("/batch") else client.get(route, headers=headers)
    assert response.status_code == status
    assert "evil.example" not in response.text
    assert "javascript:alert" not in response.text
    if status >= 400:
        words(response)
    if "queue/data" in route:
        assert "Nothing was asked in this session: join the queue first." in response.text
    assert capfd.readouterr().err == ""
