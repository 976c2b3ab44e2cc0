import hashlib
import io
import json
import socket
import sys
import threading
from dataclasses import dataclass, field, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from helpers.archives import below, leave, noise, packed
from tqdm import tqdm

from ser_hf.data import download
from ser_hf.data.corpora import CORPORA, tess
from ser_hf.data.download import DownloadError

NAMES = ("Audio_Speech_Actors_01-24.zip", "Audio_Song_Actors_01-24.zip")
PATHS = [f"/records/1188976/files/{name}?download=1" for name in NAMES]
LISTING = "/api/datasets/:persistentId/?persistentId=doi:10.5683/SP2/E8H2MF"
TESS = {
    "OAF_back_angry.wav": "OAF_angry",
    "OA_bite_neutral.wav": "OAF_neutral",
    "YAF_neat_fear.wav": "YAF_fear",
    "YAF_youth_ps.wav": "YAF_ps",
}


ARCHIVES = {name: packed([(f"Actor_01/{seed}.wav", noise(5_000, seed))]) for seed, name in enumerate(NAMES)}
SPEECH, SONG = ARCHIVES.values()


@dataclass
class Answer:
    """How the server answers a request."""

    content: bytes = b""
    status: int | None = None  # instead of 200 and 206
    headers: dict = field(default_factory=dict)
    ranges: bool = True  # whether it knows what a range is
    shift: int = 0  # serves another range than was asked for
    announce: int | None = None  # a length that is not the right one
    cut: int | None = None  # breaks off after so many bytes
    stall: bool = False  # there it stays silent instead
    endless: bool = False

    def send(self, handler):
        asked = handler.headers.get("Range")
        start = int(asked.removeprefix("bytes=").removesuffix("-")) + self.shift if asked and self.ranges else 0
        body, status = self.content[start:], self.status or (206 if start else 200)
        handler.send_response(status)
        if status == 206:
            handler.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        if not self.endless:
            handler.send_header("Content-Length", str(len(body) if self.announce is None else self.announce))
        for name, value in self.headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body if self.cut is None else body[: self.cut])
        handler.close_connection = self.endless or self.cut is not None or self.announce is not None
        if self.stall:
            handler.rfile.read(1)  # until the other side hangs up
        for _ in range(10_000 if self.endless else 0):
            handler.wfile.write(bytes(1 << 16))


class Part(Answer):
    """Its content is the range, and only its headers say which."""

    def send(self, handler):
        handler.send_response(206)
        for name, value in (self.headers | {"Content-Length": str(len(self.content))}).items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(self.content)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = self.requestline.split()[1]  # self.path has lost what a second slash would show
        self.server.events.append((path, self.headers.get("Range")))
        self.server.encodings.add(self.headers.get("Accept-Encoding"))
        answers = self.server.routes.get(path, [Answer(status=404)])
        try:
            (answers.pop(0) if len(answers) > 1 else answers[0]).send(self)
        except ConnectionError:
            self.close_connection = True

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), ConnectionError):  # the other side may hang up
            super().handle_error(request, client_address)


@pytest.fixture
def server(monkeypatch):
    """A server on the loopback with both records, and the code's own idea of them."""
    for proxy in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setattr(download, "BACKOFF", 0.0)
    known = {name: (len(content), hashlib.md5(content).hexdigest()) for name, content in ARCHIVES.items()}
    ravdess = CORPORA["ravdess"]
    monkeypatch.setitem(CORPORA, "ravdess", replace(ravdess, record=replace(ravdess.record, archives=known)))
    inventory = {tess.parse(download.PurePath(name))["key"]: "" for name in TESS}
    monkeypatch.setitem(CORPORA, "tess", replace(CORPORA["tess"], inventory=lambda: inventory))
    server = Server(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.events, server.encodings = [], set()
    server.routes = {path: [Answer(content)] for path, content in zip(PATHS, ARCHIVES.values(), strict=True)}
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def fetch(server, folder, *corpora):
    return download.fetch(corpora or ["ravdess"], folder, server.url)


def refused(server, folder, *corpora):
    with pytest.raises(DownloadError) as caught:
        fetch(server, folder, *corpora)
    assert "\n" not in str(caught.value)
    return str(caught.value)


COMPLETE = {f"ravdess/{name}": content for name, content in ARCHIVES.items()}


def test_both_archives_arrive(server, tmp_path):
    assert fetch(server, tmp_path) == {"ravdess": [tmp_path / "ravdess" / name for name in NAMES]}
    assert below(tmp_path) == COMPLETE
    assert server.events == [(path, None) for path in PATHS]
    assert server.encodings == {"identity"}


def test_a_slash_after_the_server_is_no_matter(server, tmp_path):
    list_tess(server)
    server.url += "/"
    fetch(server, tmp_path, "ravdess", "tess")
    assert below(tmp_path) == COMPLETE | TESS_COMPLETE


def test_the_licences_come_before_the_first_request(server, tmp_path, monkeypatch):
    list_tess(server)
    monkeypatch.setattr(download, "print", lambda text, **_: server.events.append(text), raising=False)
    ready = fetch(server, tmp_path, "tess", "ravdess")
    assert list(ready) == ["tess", "ravdess"]
    assert server.events[:3] == [CORPORA["tess"].licence, CORPORA["ravdess"].licence, (LISTING, None)]


def test_what_is_there_is_verified_and_not_asked_for_again(server, tmp_path):
    fetch(server, tmp_path)
    server.events.clear()
    fetch(server, tmp_path)
    assert server.events == []
    song = tmp_path / "ravdess" / NAMES[1]
    song.write_bytes(SONG[:-1] + b"!")  # of the same size
    fetch(server, tmp_path)
    assert server.events == [(PATHS[1], None)]
    assert below(tmp_path) == COMPLETE


def test_an_earlier_partial_file_is_continued(server, tmp_path):
    (tmp_path / "ravdess").mkdir()
    (tmp_path / "ravdess" / f"{NAMES[0]}.partial").write_bytes(SPEECH[:2_000])
    fetch(server, tmp_path)
    assert server.events == [(PATHS[0], "bytes=2000-"), (PATHS[1], None)]
    assert below(tmp_path) == COMPLETE


@pytest.mark.parametrize(
    ("partial", "asked"),
    [(SPEECH, []), (SPEECH[:-1] + b"!", [None]), (SPEECH + b"!", [None])],
    ids=["right", "wrong", "too long"],
)
def test_a_partial_file_of_full_length_is_only_verified(server, tmp_path, partial, asked):
    (tmp_path / "ravdess").mkdir()
    (tmp_path / "ravdess" / f"{NAMES[0]}.partial").write_bytes(partial)
    fetch(server, tmp_path)
    assert [range_ for path, range_ in server.events if path == PATHS[0]] == asked
    assert below(tmp_path) == COMPLETE


def test_a_broken_connection_is_continued_where_it_broke(server, tmp_path):
    server.routes[PATHS[0]] = [Answer(SPEECH, cut=700), Answer(SPEECH, cut=1_300), Answer(SPEECH)]
    fetch(server, tmp_path)
    assert server.events[:3] == [(PATHS[0], None), (PATHS[0], "bytes=700-"), (PATHS[0], "bytes=2000-")]
    assert below(tmp_path) == COMPLETE


def test_a_shorter_range_than_asked_for_is_taken(server, tmp_path):
    part = Part(SPEECH[700:1_000], headers={"Content-Range": f"bytes 700-999/{len(SPEECH)}"})
    server.routes[PATHS[0]] = [Answer(SPEECH, cut=700), part, Answer(SPEECH)]
    fetch(server, tmp_path)
    assert [range_ for _, range_ in server.events] == [None, "bytes=700-", "bytes=1000-", None]
    assert below(tmp_path) == COMPLETE


def test_a_silent_server_is_asked_again(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", httpx.Timeout(10.0, read=0.5))
    server.routes[PATHS[0]] = [Answer(SPEECH, cut=700, stall=True), Answer(SPEECH)]
    fetch(server, tmp_path)
    assert server.events[:2] == [(PATHS[0], None), (PATHS[0], "bytes=700-")]
    assert below(tmp_path) == COMPLETE


def test_after_the_last_attempt_what_arrived_is_kept(server, tmp_path):
    server.routes[PATHS[0]] = [Answer(SPEECH, cut=100)]
    message = refused(server, tmp_path)
    assert server.url + PATHS[0] in message
    assert "5 times" in message
    assert "--ravdess" in message
    assert [range_ for _, range_ in server.events] == [None, *(f"bytes={n}00-" for n in (1, 2, 3, 4))]
    assert below(tmp_path) == {f"ravdess/{NAMES[0]}.partial": SPEECH[:500]}
    server.routes[PATHS[0]] = [Answer(SPEECH)]
    fetch(server, tmp_path)
    assert server.events[5] == (PATHS[0], "bytes=500-")
    assert below(tmp_path) == COMPLETE


@pytest.mark.parametrize(
    "rest",
    [
        [Answer(SPEECH, ranges=False)],
        [Answer(status=416), Answer(SPEECH)],
        [Answer(SPEECH, shift=1), Answer(SPEECH)],
        [Answer(SPEECH, shift=-1), Answer(SPEECH)],
        [Answer(SPEECH, status=206, ranges=False), Answer(SPEECH)],
        [Part(SPEECH[700:]), Answer(SPEECH)],
        [Part(SPEECH[700:], headers={"Content-Range": "bytes seven/eight"}), Answer(SPEECH)],
    ],
    ids=["ignored", "416", "later", "earlier", "from zero", "unnamed", "garbled"],
)
def test_where_the_rest_is_not_to_be_had_it_starts_over(server, tmp_path, rest):
    server.routes[PATHS[0]] = [Answer(SPEECH, cut=700), *rest]
    fetch(server, tmp_path)
    asked = [range_ for path, range_ in server.events if path == PATHS[0]]
    assert asked == [None, "bytes=700-", None][: len(rest) + 1]
    assert below(tmp_path) == COMPLETE


@pytest.mark.parametrize(
    "answer",
    [
        Answer(SPEECH + b"!"),
        Answer(SPEECH[:-1]),
        Answer(b""),
        Answer(SPEECH, announce=1 << 40),
        Answer(SPEECH, headers={"Content-Encoding": "gzip"}, announce=99),
    ],
    ids=["longer", "shorter", "empty", "huge", "packed"],
)
def test_another_length_than_recorded_is_refused_at_once(server, tmp_path, answer):
    server.routes[PATHS[0]] = [answer]
    assert f"instead of {len(SPEECH)}" in refused(server, tmp_path)
    assert server.events == [(PATHS[0], None)]
    assert below(tmp_path) == {}


def test_the_rest_of_another_file_is_refused(server, tmp_path):
    server.routes[PATHS[0]] = [Answer(SPEECH, cut=700), Answer(SPEECH + b"!")]
    assert f"{len(SPEECH) + 1} bytes instead of {len(SPEECH)}" in refused(server, tmp_path)
    assert below(tmp_path) == {f"ravdess/{NAMES[0]}.partial": SPEECH[:700]}


@pytest.mark.parametrize("content", [b"", SPEECH], ids=["zeros", "after"])
def test_no_more_than_the_recorded_size_is_written(server, tmp_path, monkeypatch, content):
    dropped = []
    unlink = download.Path.unlink

    def watched(path, **flags):
        dropped.append(path.stat().st_size)
        unlink(path, **flags)

    monkeypatch.setattr(download.Path, "unlink", watched)
    server.routes[PATHS[0]] = [Answer(content, endless=True)]
    assert f"more than its {len(SPEECH)} bytes" in refused(server, tmp_path)
    assert len(dropped) == 1
    assert dropped[0] <= len(SPEECH)
    assert server.events == [(PATHS[0], None)]
    assert below(tmp_path) == {}


def test_a_range_that_runs_over_is_refused(server, tmp_path):
    over = Part(SPEECH[700:] + b"!", headers={"Content-Range": f"bytes 700-{len(SPEECH) - 1}/{len(SPEECH)}"})
    server.routes[PATHS[0]] = [Answer(SPEECH, cut=700), over]
    assert "sends more" in refused(server, tmp_path)
    assert below(tmp_path) == {}


def test_a_wrong_checksum_is_tried_once_more(server, tmp_path):
    wrong = SPEECH[:-1] + b"!"
    server.routes[PATHS[0]] = [Answer(wrong), Answer(SPEECH)]
    fetch(server, tmp_path)
    assert server.events == [(PATHS[0], None), (PATHS[0], None), (PATHS[1], None)]
    assert below(tmp_path) == COMPLETE


def test_a_wrong_checksum_twice_is_refused(server, tmp_path):
    wrong = SPEECH[:-1] + b"!"
    server.routes[PATHS[0]] = [Answer(wrong)]
    message = refused(server, tmp_path)
    assert hashlib.md5(wrong).hexdigest() in message
    assert hashlib.md5(SPEECH).hexdigest() in message
    assert server.events == [(PATHS[0], None)] * 2
    assert below(tmp_path) == {}


def test_a_redirect_keeps_the_range(server, tmp_path):
    server.routes["/store/speech"] = [Answer(SPEECH, cut=700), Answer(SPEECH)]
    server.routes[PATHS[0]] = [Answer(status=302, headers={"Location": "/store/speech"})]
    fetch(server, tmp_path)
    twice = [(PATHS[0], None), ("/store/speech", None), (PATHS[0], "bytes=700-"), ("/store/speech", "bytes=700-")]
    assert server.events[:4] == twice
    assert below(tmp_path) == COMPLETE


@pytest.mark.parametrize("proxied", [False, True])
@pytest.mark.parametrize("scheme", ["file", "ftp", "gopher"])
def test_a_redirect_leads_to_the_web_alone(server, tmp_path, monkeypatch, scheme, proxied):
    (tmp_path / "secret").write_bytes(SPEECH)
    target = f"{scheme}://{tmp_path}/secret"
    server.routes[PATHS[0]] = [Answer(status=302, headers={"Location": target})]
    server.routes[server.url + PATHS[0]] = server.routes[PATHS[0]]
    if proxied:  # a proxy would be handed whatever address it is
        monkeypatch.setenv("ALL_PROXY", server.url)
    message = refused(server, tmp_path / "out")
    assert f"{scheme}://" in message
    assert len(server.events) == 1
    assert below(tmp_path / "out") == {}


def test_a_loop_of_redirects_ends(server, tmp_path):
    server.routes[PATHS[0]] = [Answer(status=302, headers={"Location": PATHS[0]})]
    assert "redirects" in refused(server, tmp_path)
    assert len(server.events) < 50
    assert below(tmp_path) == {}


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 418, 501])
def test_a_refusal_is_not_repeated(server, tmp_path, status):
    server.routes[PATHS[0]] = [Answer(b"no", status=status)]
    message = refused(server, tmp_path)
    assert f"{server.url}{PATHS[0]} answers {status}" in message
    assert "/records/1188976 and pass it with --ravdess" in message
    assert server.events == [(PATHS[0], None)]
    assert below(tmp_path) == {}


class Clock(threading.Event):
    waits: list

    def wait(self, timeout=None):
        self.waits.append(timeout)
        return False


@pytest.fixture
def waits(monkeypatch):
    """The seconds that were waited, of which none pass."""
    monkeypatch.setattr(Clock, "waits", [], raising=False)
    monkeypatch.setattr(download, "BACKOFF", 1.0)
    monkeypatch.setattr(download, "_Record", partial(download._Record, stop=Clock()))
    return Clock.waits


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again_when_it_says(server, tmp_path, waits, status):
    asked = [{"Retry-After": "7"}, {"Retry-After": "86400"}, {"Retry-After": "soon"}, {}]
    server.routes[PATHS[0]] = [*(Answer(b"busy", status=status, headers=headers) for headers in asked), Answer(SPEECH)]
    fetch(server, tmp_path)
    assert waits == [7, 60, 4, 8]
    assert below(tmp_path) == COMPLETE


def test_a_server_that_stays_busy_is_left(server, tmp_path, waits):
    server.routes[PATHS[0]] = [Answer(b"busy", status=503)]
    message = refused(server, tmp_path)
    assert "5 times (it answers 503)" in message
    assert server.events == [(PATHS[0], None)] * 5
    assert waits == [1, 2, 4, 8]
    assert below(tmp_path) == {}


def test_a_server_that_is_not_there_is_named(server, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        server.url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    message = refused(server, tmp_path)
    assert server.url in message
    assert "refused" in message


@pytest.mark.parametrize("address", ["ftp://127.0.0.1", "127.0.0.1", "http://[::"])
def test_an_address_that_is_none_is_refused(server, tmp_path, address):
    server.url = address
    assert address in refused(server, tmp_path)


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "gopher://127.0.0.1:1", "http://[::"])
def test_a_proxy_that_cannot_be_used_is_named(server, tmp_path, monkeypatch, proxy):
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    assert "ALL_PROXY" in refused(server, tmp_path)


def test_a_full_disk_is_seen_before_the_first_byte(server, tmp_path, monkeypatch):
    leave(monkeypatch, len(SPEECH) + len(SONG) - 1)
    assert "free some space" in refused(server, tmp_path)
    assert server.events == []
    # what has arrived already needs no room
    (tmp_path / "ravdess" / f"{NAMES[0]}.partial").write_bytes(SPEECH[:1])
    fetch(server, tmp_path)
    assert below(tmp_path) == COMPLETE


def test_other_corpora_are_refused(server, tmp_path, capsys):
    assert "'emodb'" in refused(server, tmp_path, "ravdess", "emodb")
    assert server.events == []
    assert capsys.readouterr().out == ""


def recording(name):
    return noise(3_000, sum(name.encode()))


def entry(number, name, kind="MD5", **other):
    content = recording(name)
    digest = hashlib.new(kind.replace("-", ""), content).hexdigest()
    checksum = {"md5": digest} if kind == "MD5" and number % 2 else {"checksum": {"type": kind, "value": digest}}
    return {"label": name, "dataFile": {"id": number, "filename": name, "filesize": len(content), **checksum} | other}


def list_tess(server, *others, names=TESS, kind="MD5"):
    """Let the server hold a TESS record of these names, and other entries before them."""
    entries = [entry(number, name, kind) for number, name in enumerate(names, 1)]
    listing = {"status": "OK", "data": {"latestVersion": {"files": [*others, *entries]}}}
    server.routes[LISTING] = [Answer(json.dumps(listing).encode())]
    for number, name in enumerate(names, 1):
        server.routes[f"/api/access/datafile/{number}"] = [Answer(recording(name))]


TESS_COMPLETE = {f"tess/{folder}/{name}": recording(name) for name, folder in TESS.items()}


@pytest.mark.parametrize("kind", ["MD5", "SHA-1", "SHA-256", "SHA-512"])
def test_tess_is_laid_out_by_actress_and_emotion(server, tmp_path, capsys, kind):
    others = ["readme.txt", "OAF_back_angry.tab", "OAF_zebra_angry.wav"]
    list_tess(server, *(entry(90, name) for name in others), kind=kind)
    assert fetch(server, tmp_path, "tess") == {"tess": [tmp_path / "tess"]}
    assert below(tmp_path) == TESS_COMPLETE
    assert server.events[0] == (LISTING, None)
    assert sorted(server.events[1:]) == [(f"/api/access/datafile/{number}", None) for number in (1, 2, 3, 4)]
    printed = capsys.readouterr().out
    assert ", ".join(map(repr, others)) in printed
    server.events.clear()
    fetch(server, tmp_path, "tess")
    assert server.events == [(LISTING, None)]


def test_of_a_recording_listed_twice_the_first_counts(server, tmp_path, capsys):
    list_tess(server, names=[*TESS, "oaf_BACK_angry.WAV"])
    fetch(server, tmp_path, "tess")
    assert below(tmp_path) == TESS_COMPLETE
    assert "'oaf_BACK_angry.WAV'" in capsys.readouterr().out


def test_a_file_of_tess_is_continued_too(server, tmp_path):
    list_tess(server)
    name = "YAF_neat_fear.wav"
    server.routes["/api/access/datafile/3"] = [Answer(recording(name), cut=100), Answer(recording(name))]
    server.routes[LISTING].insert(0, Answer(server.routes[LISTING][0].content, cut=50))
    fetch(server, tmp_path, "tess")
    assert server.events[:2] == [(LISTING, None)] * 2
    assert ("/api/access/datafile/3", "bytes=100-") in server.events
    assert below(tmp_path) == TESS_COMPLETE


def test_a_file_of_tess_that_is_refused_is_named(server, tmp_path):
    list_tess(server)
    server.routes["/api/access/datafile/2"] = [Answer(b"no", status=403)]
    server.routes["/api/access/datafile/4"] = [Answer(recording("other"))]
    message = refused(server, tmp_path, "tess")
    assert "datafile/2 answers 403" in message or "datafile/4 does not match its checksum" in message
    assert "https://doi.org/10.5683/SP2/E8H2MF and pass the folder with --tess" in message
    left = below(tmp_path)
    assert "tess/OAF_neutral/OA_bite_neutral.wav" not in left
    assert "tess/YAF_ps/YAF_youth_ps.wav" not in left
    assert left.items() <= TESS_COMPLETE.items()


def test_a_refusal_ends_the_waits_of_the_others(server, tmp_path):
    list_tess(server)
    server.routes["/api/access/datafile/1"] = [Answer(status=503, headers={"Retry-After": "60"})]
    server.routes["/api/access/datafile/2"] = [Answer(status=403)]
    assert "answers 403" in refused(server, tmp_path, "tess")
    assert server.events.count(("/api/access/datafile/1", None)) <= 1


@pytest.mark.parametrize(("count", "named"), [(3, "OAF_bite_neutral"), (0, "YAF_neat_fear ...")])
def test_a_record_that_lacks_recordings_is_refused(server, tmp_path, count, named):
    list_tess(server, names=[name for name in TESS if name != "OA_bite_neutral.wav"][:count])
    message = refused(server, tmp_path, "tess")
    assert f"lacks {4 - count} recordings" in message
    assert f"{named})" in message
    assert server.events == [(LISTING, None)]
    assert below(tmp_path) == {}


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../OAF_back_angry.wav", "/OAF_back_angry.wav", "a/OAF_back_angry.wav", "..\\a.wav", "a\0.wav"],
)
def test_a_listed_name_that_is_a_path_is_refused(server, tmp_path, name):
    list_tess(server, entry(9, name))
    assert repr(name) in refused(server, tmp_path / "out", "tess")
    assert server.events == [(LISTING, None)]
    assert below(tmp_path) == {}


@pytest.mark.parametrize(
    "listing",
    [
        b"",
        b"<html>",
        b"\xff",
        b"[]",
        b'"data"',
        b'{"data": {"latestVersion": {"files": 3}}}',
        b'{"data": {"latestVersion": {"files": [{"label": "a"}]}}}',
        b'{"data": {"latestVersion": {"files": [{"dataFile": {"filename": 3}}]}}}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_listing_is_refused(server, tmp_path, listing):
    server.routes[LISTING] = [Answer(listing)]
    message = refused(server, tmp_path, "tess")
    assert "holds no listing to be used" in message
    assert "--tess" in message
    assert below(tmp_path) == {}


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "1/../../secret"},
        {"id": None},
        {"filesize": -1},
        {"filesize": 0},
        {"filesize": "3000"},
        {"filesize": 3000.5},
        {"filesize": float("nan")},
        {"filesize": 10**400},
        {"checksum": {"type": "CRC", "value": "0"}},
        {"checksum": {"type": "MD5", "value": 0}},
        {"md5": None, "checksum": None},
    ],
)
def test_an_entry_that_cannot_be_used_is_refused(server, tmp_path, wrong):
    list_tess(server, entry(1, "OAF_back_angry.wav", **wrong), names=[name for name in TESS if "back" not in name])
    assert "holds no listing to be used" in refused(server, tmp_path, "tess")
    assert server.events == [(LISTING, None)]
    assert below(tmp_path) == {}


def test_a_listing_without_end_is_refused(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MAX_LISTING", 1 << 20)
    server.routes[LISTING] = [Answer(endless=True)]
    assert "more than 1,048,576 bytes" in refused(server, tmp_path, "tess")


def test_a_listing_of_more_than_the_disk_holds_is_refused(server, tmp_path, monkeypatch):
    leave(monkeypatch, 11_999)
    list_tess(server)
    assert "free some space" in refused(server, tmp_path, "tess")
    assert server.events == [(LISTING, None)]


def test_the_bars_follow_what_arrives(server, tmp_path, monkeypatch):
    bars = []

    def bar(**settings):
        bars.append(tqdm(**settings | {"disable": False, "file": io.StringIO()}))
        return bars[-1]

    monkeypatch.setattr(download, "tqdm", bar)
    list_tess(server)
    server.routes[PATHS[0]] = [Answer(SPEECH, cut=700), Answer(SPEECH[:-1] + b"!"), Answer(SPEECH)]
    (tmp_path / "ravdess").mkdir()
    (tmp_path / "ravdess" / f"{NAMES[1]}.partial").write_bytes(SONG[:2_000])
    fetch(server, tmp_path, "ravdess", "tess")
    assert [(bar.initial, bar.n, bar.total) for bar in bars] == [
        (0, len(SPEECH), len(SPEECH)),
        (2_000, len(SONG), len(SONG)),
        (0, 12_000, 12_000),
    ]
