"""The app behind a proxy, by the headers that configs/nginx/ser-hf.conf sends."""

import re

import pytest
from helpers.small import ROOT
from starlette.applications import Starlette
from starlette.testclient import TestClient
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from ser_hf.app import server
from ser_hf.app.metrics import Metrics
from ser_hf.app.middleware import API, Access, RequestGuard
from ser_hf.app.uploads import Limits
from ser_hf.inference.predictor import Predictor

NGINX = (ROOT / "configs" / "nginx" / "ser-hf.conf").read_text()
OWN = "https://ser.example"
VISITOR = "203.0.113.7"  # an address of nobody (RFC 5737)


def forwarded(host="ser.example", client=VISITOR):
    """The headers that nginx adds for a visitor who asks `host` by TLS."""
    values = {"$http_host": host, "$remote_addr": client, "$scheme": "https"}
    headers = dict(re.findall(r"^    proxy_set_header (\S+) ([^;]+);", NGINX, re.MULTILINE))
    return {name: values[value] for name, value in headers.items() if value in values}


@pytest.fixture(scope="module")
def client(tuned, tmp_path_factory):
    """The proxy, which is on the machine of the app and publishes it under a path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        access = Access(server.allowed_hosts("127.0.0.1", ["ser.example"]))
        app = server.application(Predictor(tuned), Limits(per_minute=4), access=access, root_path="/ser")
        app = ProxyHeadersMiddleware(app)  # as uvicorn does
        with TestClient(app, client=("127.0.0.1", 50_000)) as client:
            yield client


@pytest.mark.parametrize("host", ["ser.example", "ser.example:8443", "SER.example"])
def test_the_page_finds_itself_where_it_is_published(client, host):
    assert client.get("/config", headers=forwarded(host)).json()["root"] == f"https://{host.lower()}/ser"
    page = client.get("/", headers=forwarded(host))
    assert page.status_code == 200
    assert f'"root":"https://{host.lower()}/ser"' in page.text
    sent = client.post(f"{API}/upload", headers=forwarded(host, host), files={"files": ("notes.wav", b"no sound")})
    assert sent.status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": OWN}, 422),  # no recording, but an answer
        ({"Origin": OWN, "Sec-Fetch-Site": "same-origin"}, 422),
        ({"Referer": f"{OWN}/ser/"}, 422),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": f"{OWN}:8443"}, 403),
        ({"Origin": "http://127.0.0.1:7860"}, 403),
        ({"Origin": OWN, "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Host": "other.example", "X-Forwarded-Host": "ser.example"}, 421),
    ],
)
def test_its_own_page_may_ask_and_no_other(client, headers, status):
    at = forwarded(client=f"203.0.113.{len(str(headers)) % 200}")
    assert client.post("/predict", content=b"no sound", headers=at | headers).status_code == status


def test_each_visitor_has_a_limit(client):
    ask = [client.post("/predict", content=b"x", headers=forwarded(client="198.51.100.1")) for _ in range(5)]
    assert [answer.status_code for answer in ask] == [422] * 4 + [429]
    assert client.post("/predict", content=b"x", headers=forwarded(client="198.51.100.2")).status_code == 422


@pytest.mark.parametrize(
    ("addresses", "statuses"),
    [
        (["2001:db8:1:2::1", "2001:db8:1:2:ffff::9", "2001:db8:1:2:3:4:5:6"], [404, 404, 429]),  # one network
        (["2001:db8:1:2::1", "2001:db8:1:3::1", "2001:db8:1:4::1"], [404, 404, 404]),
        (["::ffff:203.0.113.7", "203.0.113.7", "::ffff:203.0.113.7"], [404, 404, 429]),
        (["203.0.113.7", "203.0.113.8", "203.0.113.9"], [404, 404, 404]),
        (["unknown", "unknown", "unknown"], [404, 404, 429]),
    ],
)
def test_who_has_a_whole_network_is_one_client(tmp_path, addresses, statuses):
    guard = RequestGuard(Starlette(), Limits(per_minute=2), tmp_path, Access(), None, [], Metrics())
    assert [TestClient(guard, client=(one, 1)).post("/predict").status_code for one in addresses] == statuses


@pytest.mark.parametrize("proxy", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_a_proxy_on_this_machine_is_believed(tmp_path, proxy):
    guard = RequestGuard(Starlette(), Limits(per_minute=1), tmp_path, Access(), None, [], Metrics())
    ask = TestClient(ProxyHeadersMiddleware(guard, server.PROXIES), client=(proxy, 1))
    visitors = [VISITOR, "198.51.100.1", VISITOR]
    found = [ask.post("/predict", headers={"X-Forwarded-For": one}).status_code for one in visitors]
    assert found == [404, 404, 429]


def test_the_metrics_do_not_pass(client):
    """Even where the proxy forgets to close them."""
    assert client.get("/metrics", headers=forwarded()).status_code == 403
    assert client.get("/metrics", headers={"Host": "127.0.0.1"}).status_code == 200
