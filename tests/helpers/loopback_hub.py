"""A Hugging Face Hub on the loopback address, in memory: pushes and loads of models, datasets and
Spaces.

The client libraries read their environment when they are imported, so run them in a process of
their own, with `Hub.environment`. Access is that of the Hub: reading a private repository takes the
token, and writing takes a token that can write, to a repository of `Hub.user`.
"""

import base64
import functools
import hashlib
import json
import os
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from helpers import programs
from helpers.loopback_repo import LFS, Commit, Repo, content_id, entries, front_matter

_REPO = r"(?:(?P<type>dataset|space)s/)?(?P<repo>[\w.-]+/[\w.-]+)"
_API = r"/api/(?P<type>model|dataset|space)s/(?P<repo>[\w.-]+/[\w.-]+)"
ROUTES = [  # method, operation (a method of Handler, a key of Hub.fail), page
    ("GET", "whoami", r"/api/whoami-v2"),
    ("POST", "create", r"/api/repos/create"),
    ("POST", "validate", r"/api/validate-yaml"),
    ("POST", "preupload", _API + r"/preupload/(?P<revision>[^/]+)"),
    ("POST", "commit", _API + r"/commit/(?P<revision>[^/]+)"),
    ("POST", "paths", _API + r"/paths-info/(?P<revision>[^/]+)"),
    ("GET", "tree", _API + r"/tree/(?P<revision>[^/]+)/?(?P<path>.*)"),
    ("POST", "branch", _API + r"/branch/(?P<branch>[^/]+)"),
    ("GET", "refs", _API + r"/refs"),
    ("GET", "info", _API + r"(?:/revision/(?P<revision>[^/]+))?"),
    ("POST", "lfs", f"/{_REPO}" + r"\.git/info/lfs/objects/batch"),
    ("PUT", "upload", r"/lfs/(?P<oid>[0-9a-f]{64})"),
    ("GET", "resolve", f"/{_REPO}" + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)"),
]
WRITES = ("create", "preupload", "commit", "lfs", "branch")


class Hub:
    """`fail` maps operations of `ROUTES` to a status; `requests` lists all requests.

    The status is a number, or an iterator that gives one for each request, None where all is well.
    Those that are `lasting` have one address in all tests of a process, one after the other, and
    their clients one path of the caches: their programs are forked (`helpers.programs`).
    """

    def __init__(self, user="you", token="hf_you", role="write", lasting=False):
        self.user, self.token, self.role, self.lasting = user, token, role, lasting
        self.repos = {"model": {}, "dataset": {}, "space": {}}
        self.requests, self.fail, self.blobs = [], {}, {}
        self.lock = threading.Lock()

    def __enter__(self):
        address = _reserved().getsockname() if self.lasting else ("127.0.0.1", 0)
        self.server = ThreadingHTTPServer(address, type("Bound", (Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def environment(self, home, **changes):
        """The environment of a client that knows this Hub alone, with its caches under `home`.

        Where the Hub is lasting it holds until it is asked for another one.
        """
        if self.lasting:
            Path(home).mkdir(parents=True, exist_ok=True)
            link = programs.RUN / f"home-{os.getpid()}"
            link.unlink(missing_ok=True)
            link.symlink_to(home)
            home = link
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
        own = {"HF_ENDPOINT": self.url, "HF_TOKEN": self.token, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
        quiet = {f"HF_HUB_DISABLE_{name}": "1" for name in ("XET", "TELEMETRY", "PROGRESS_BARS")}
        environment = inherited | own | quiet | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        if self.lasting:
            programs.keep(environment)
        return environment | changes

    def address(self, kind, name):
        return f"{self.url}/{'' if kind == 'model' else kind + 's/'}{name}"


@functools.cache
def _reserved():
    """A socket that keeps a port, at which one server after the other can listen."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held


class Refused(Exception):
    def __init__(self, status, message, code=None, **body):
        self.status, self.body = status, {"error": message} | body
        self.headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do(self):
        url = urlsplit(self.path)
        self.query, self.data = parse_qs(url.query), self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append((self.command, url.path))
        try:
            self.answer(*self.operate(url.path))
        except Refused as refused:
            self.answer(refused.body, refused.status, refused.headers)

    do_GET = do_HEAD = do_POST = do_PUT = do

    def log_message(self, *_):
        pass

    def answer(self, body, status=200, headers=None):
        headers = headers or {}
        if not isinstance(body, bytes):
            body, headers = json.dumps(body).encode(), {"Content-Type": "application/json"} | headers
        self.send_response(status)
        for key, value in ({"Content-Length": len(body)} | headers).items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def operate(self, page):
        """Do the operation of a page if the client may; gives body, status and headers."""
        verb = "GET" if self.command == "HEAD" else self.command
        for method, operation, pattern in ROUTES:
            if method == verb and (match := re.fullmatch(pattern, page)):
                words = {key: unquote(value) for key, value in match.groupdict().items() if value}
                self.admit(operation)
                if "repo" in words:
                    self.open(operation, words.pop("type", "model"), words.pop("repo"), words.pop("revision", "main"))
                done = getattr(self, operation)(**words)
                return done if isinstance(done, tuple) else (done,)
        raise Refused(404, f"no such page: {page}")

    def admit(self, operation):
        status = self.hub.fail.get(operation)
        if status := status if status is None or isinstance(status, int) else next(status, None):
            raise Refused(status, f"{operation} is set to fail")
        sent = self.headers.get("Authorization")
        self.authorized = sent == f"Bearer {self.hub.token}"
        if sent and not self.authorized:
            raise Refused(401, "Invalid credentials in Authorization header")
        if not self.authorized and operation in (*WRITES, "whoami"):
            raise Refused(401, "Invalid username or password.")

    def may_write(self, owner):
        if owner != self.hub.user or self.hub.role == "read":
            raise Refused(403, f"you have no rights to write to {owner}")

    def open(self, operation, kind, name, revision):
        repo = self.hub.repos[kind].get(name)
        if repo is None or (repo.private and not self.authorized):
            raise Refused(404, "Repository not found", "RepoNotFound")
        if operation in WRITES:
            self.may_write(name.split("/")[0])
        if (head := repo.heads().get(revision)) is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        if operation == "resolve" and repo.gated and not (self.authorized and name.startswith(f"{self.hub.user}/")):
            raise Refused(403, f"Access to model {name} is restricted", "GatedRepo")
        self.kind, self.name, self.repo, self.revision = kind, name, repo, revision
        self.oid, self.files = head.oid, head.files

    def whoami(self):
        auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": self.hub.role}}
        return {"type": "user", "name": self.hub.user, "orgs": [], "auth": auth}

    def create(self):
        request = json.loads(self.data)
        kind, owner = request.get("type") or "model", request.get("organization") or self.hub.user
        name = f"{owner}/{request['name']}"
        self.may_write(owner)
        with self.hub.lock:
            if name in self.hub.repos[kind]:
                raise Refused(409, f"You already created this {kind} repo", url=self.hub.address(kind, name))
            visibility = request.get("visibility", "private" if request.get("private") else "public")
            private = visibility == "private"
            self.hub.repos[kind][name] = Repo(private)
        return {"url": self.hub.address(kind, name), "name": name}

    def validate(self):
        try:
            front_matter(json.loads(self.data)["content"])
        except yaml.YAMLError as error:
            raise Refused(400, "Invalid metadata", errors=[{"message": str(error)}], warnings=[]) from None
        return {"errors": [], "warnings": []}

    def preupload(self):
        answers = []
        for path in (file["path"] for file in json.loads(self.data)["files"]):
            answer = {"path": path, "uploadMode": "lfs" if path.endswith(LFS) else "regular", "shouldIgnore": False}
            answers.append(answer | ({"oid": content_id(path, self.files[path])} if path in self.files else {}))
        return {"files": answers}

    def lfs(self):
        objects = json.loads(self.data)["objects"]
        for item in objects:
            if item["oid"] not in self.hub.blobs:
                item["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{item['oid']}"}}
        return {"transfer": "basic", "objects": objects}

    def upload(self, oid):
        if hashlib.sha256(self.data).hexdigest() != oid:
            raise Refused(400, "the content is not what was announced")
        self.hub.blobs[oid] = self.data
        return b""

    def commit(self):
        header, *changes = [json.loads(line) for line in self.data.splitlines()]
        with self.hub.lock:
            self.open("commit", self.kind, self.name, self.revision)  # what lies there now
            if self.revision not in ("main", *self.repo.branches):
                raise Refused(400, f"{self.revision} is no branch")
            if header["value"].get("parentCommit", self.oid) != self.oid:
                raise Refused(412, "A commit has happened since")
            files = dict(self.files)
            for change in changes:
                self.apply(files, change["key"], **change["value"])
            oid = hashlib.sha1(self.oid.encode() + self.data).hexdigest()
            self.repo.branches.get(self.revision, self.repo.commits).append(
                Commit(oid, header["value"]["summary"], dict(files))
            )
            if self.revision == "main":
                self.repo.files = files
        url = f"{self.hub.address(self.kind, self.name)}/commit/{oid}"
        return {"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": "", "pullRequestUrl": None}

    def apply(self, files, key, path, content=None, oid=None, **_):
        if key == "file":
            files[path] = base64.b64decode(content)
        elif key == "lfsFile":
            if oid not in self.hub.blobs:
                raise Refused(400, f"{path} was not uploaded")
            files[path] = self.hub.blobs[oid]
        else:
            folder = f"{path.rstrip('/')}/"
            deleted = [name for name in files if name.startswith(folder)] if key == "deletedFolder" else [path]
            if not deleted or deleted[0] not in files:
                raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
            for name in deleted:
                del files[name]

    def branch(self, branch):
        if branch in self.repo.heads():
            raise Refused(409, f"Reference {branch} exists already")
        self.open("branch", self.kind, self.name, json.loads(self.data or "{}").get("startingPoint", "main"))
        self.repo.branches[branch] = [Commit(self.oid, "", self.files)]
        return {}

    def refs(self):
        heads, named = self.repo.heads(), {"branches": ["main", *self.repo.branches], "tags": [*self.repo.tags]}
        return {"converts": []} | {
            kind: [{"name": name, "ref": name, "targetCommit": heads[name].oid} for name in names]
            for kind, names in named.items()
        }

    def info(self):
        card = front_matter(self.files.get("README.md", b"").decode())
        card_fields = {"cardData": card, "pipeline_tag": card.get("pipeline_tag"), "sdk": card.get("sdk"), "tags": []}
        state = {
            "id": self.name,
            "sha": self.oid,
            "private": self.repo.private,
            "gated": "manual" if self.repo.gated else False,
            "disabled": False,
        }
        return state | card_fields | {"siblings": [{"rfilename": path} for path in sorted(self.files)]}

    def tree(self, path=""):
        folder = f"{path}/" if path else ""
        inside = [entry for entry in entries(self.files) if entry["path"].startswith(folder)]
        if path and not inside:
            raise Refused(404, f"{path} does not exist", "EntryNotFound")
        if self.query.get("recursive") == ["true"]:
            return inside
        return [entry for entry in inside if "/" not in entry["path"].removeprefix(folder)]

    def paths(self):
        return [entry for entry in entries(self.files) if entry["path"] in parse_qs(self.data.decode())["paths"]]

    def resolve(self, path):
        if path not in self.files:
            raise Refused(404, "Entry not found", "EntryNotFound")
        data, tag = self.files[path], f'"{content_id(path, self.files[path])}"'
        headers = {"X-Repo-Commit": self.oid, "ETag": tag, "Accept-Ranges": "bytes"}
        if path.endswith(LFS):
            headers |= {"X-Linked-Etag": tag, "X-Linked-Size": len(data)}
        if not (part := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))):
            return data, 200, headers
        start = int(part[1]) if part[1] else max(0, len(data) - int(part[2]))
        stop = min(int(part[2]) + 1, len(data)) if part[1] and part[2] else len(data)
        if start >= stop:
            raise Refused(416, "the file has no such part")
        return data[start:stop], 206, headers | {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
