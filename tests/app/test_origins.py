"""Which pages may ask the app."""

import pytest

from ser_hf.app.origins import Origins
from ser_hf.errors import UserError

OWN = "http://127.0.0.1:7860"


def request(**headers):
    """A request to the app on its usual port, with the headers of a browser."""
    headers = {"host": "127.0.0.1:7860"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return {"headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]}


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:8000"},  # another program on this machine
        {"origin": "http://localhost:7860"},  # another name is another origin
        {"origin": "http://127.0.0.1.evil.example:7860"},
        {"origin": "http://127.0.0.1:7860@evil.example"},
        {"origin": "file://"},
        {"origin": "http://[::1"},
        {"origin": "http://127.0.0.1:x"},
        {"origin": f"{OWN}, http://evil.example"},
        {"origin": "\xff"},
        {"referer": "http://evil.example/page?x=http://127.0.0.1:7860"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site", "origin": "http://127.0.0.1:3000"},
        {"sec_fetch_site": "cross-site", "origin": OWN},
        {"sec_fetch_site": "something-new"},
        {"sec_fetch_site": "none", "origin": "http://evil.example"},
        {"origin": "http://evil.example", "x_forwarded_host": "ser.example"},
    ],
)
def test_pages_of_other_sites_are_refused(headers):
    assert "may not ask this app" in Origins().refusal(request(**headers))


@pytest.mark.parametrize(
    "headers",
    [
        {},  # curl, gradio_client
        {"sec_fetch_mode": "cors"},  # the fetch of Node
        {"origin": OWN},
        {"origin": OWN.upper()},
        {"referer": f"{OWN}/?__theme=dark"},
        {"sec_fetch_site": "none"},
        {"sec_fetch_site": "same-origin"},
        {"host": "ser.example", "origin": "https://ser.example"},  # a proxy with TLS
        {"host": "ser.example:443", "origin": "https://ser.example"},
        {"host": "[::1]:7860", "origin": "http://[::1]:7860"},
        {"origin": "https://ser.example", "x_forwarded_host": "ser.example, inner.example"},
        {"origin": "https://ser.example", "sec_fetch_site": "same-origin"},  # a proxy that passes no name on
    ],
)
def test_its_own_page_and_programs_may_ask(headers):
    assert Origins().refusal(request(**headers)) == ""


def test_pages_that_are_named_may_ask():
    origins = Origins(["https://Site.example:443/", "http://localhost:3000"])
    assert origins.allowed == ["http://localhost:3000", "https://site.example"]
    for headers in (
        {"origin": "https://site.example", "sec_fetch_site": "cross-site"},
        {"origin": "http://localhost:3000", "sec_fetch_site": "same-site"},
        {"referer": "https://site.example/page", "sec_fetch_site": "cross-site"},
    ):
        assert origins.refusal(request(**headers)) == ""
        assert origins.allowed_source(request(**headers)) in origins.allowed
    for origin in ("http://site.example", "https://site.example:8443", "https://a.site.example", "null"):
        assert origins.refusal(request(origin=origin)) != ""
        assert origins.allowed_source(request(origin=origin)) == ""
    assert Origins().refusal(request(origin="http://evil.example")) == (
        "Pages of http://evil.example may not ask this app: start it with --allowed_origin http://evil.example "
        "to let them."
    )


@pytest.mark.parametrize(
    "origin", ["*", "https://*.example", "null", "site.example", "https://site.example/page", "ftp://a", "https://", ""]
)
def test_what_is_no_origin_is_refused_at_the_start(origin):
    with pytest.raises(UserError, match=r"--allowed_origin is .*: a scheme and a host are needed"):
        Origins([origin])
