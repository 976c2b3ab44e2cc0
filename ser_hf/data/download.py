"""The official recordings, fetched, resumed and verified.

A corpus names its record (`ser_hf.data.corpora.base.Corpus.record`). Zenodo: size and MD5 of each
archive stand in the corpus's entry. Dataverse: the record lists its files with sizes and checksums
(https://guides.dataverse.org/en/latest/api/native-api.html and dataaccess.html beside it), and the
inventory of the corpus has the names it must hold. Resuming: ranges of RFC 9110, section 14.
"""

import hashlib
import json
import re
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import httpx
from tqdm import tqdm

from ser_hf.data.corpora import CORPORA
from ser_hf.data.corpora.base import Corpus, DataverseRecord, ZenodoRecord
from ser_hf.errors import UserError

TIMEOUT = httpx.Timeout(60.0, connect=10.0)
ATTEMPTS = 5
BACKOFF, MAX_WAIT = 1.0, 60  # seconds before the second attempt, doubled each time; what a server may ask for at most
THREADS = 4
MAX_LISTING = 64 << 20
MAX_BYTES = 8 << 30  # of one file of a listing

_BAR = {"unit": "B", "unit_scale": True, "disable": None}  # None: only in a terminal
_ALGORITHMS = {"MD5": "md5", "SHA-1": "sha1", "SHA-256": "sha256", "SHA-512": "sha512"}
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)", re.IGNORECASE)


class DownloadError(UserError):
    """A recording or record that cannot be downloaded; the message names it and the remedy."""


def fetch(corpora: Sequence[str], folder: Path, server: str | None = None) -> dict[str, list[Path]]:
    """Download official recordings; what is there already is verified, what broke off is continued.

    The licence of each corpus is printed before the first request.

    Args:
        corpora: names of corpora that have a record.
        folder: receives a folder for each corpus, such as `ravdess/Audio_*_Actors_01-24.zip` and
            `tess/OAF_angry/OAF_back_angry.wav`.
        server: address of a server in place of those of the records.

    Returns:
        For each corpus what can be scanned: the archives of a Zenodo record, the folder of a
        Dataverse record.

    Raises:
        DownloadError: if a server fails, refuses or sends something else than recorded, or the disk
            is too small.
    """
    available = [name for name, corpus in CORPORA.items() if corpus.record is not None]
    for name in corpora:
        if name not in available:
            raise DownloadError(f"'{name}' cannot be downloaded: {' and '.join(available)} can")
    ready = {}
    for name in corpora:
        print(CORPORA[name].licence, flush=True)
    with _client() as client:
        for name in corpora:
            corpus = CORPORA[name]
            if isinstance(corpus.record, ZenodoRecord):
                ready[name] = _fetch_zenodo(client, corpus, corpus.record, Path(folder, name), server)
            elif corpus.record is not None:
                ready[name] = _fetch_dataverse(client, corpus, corpus.record, Path(folder, name), server)
    return ready


def _client() -> httpx.Client:
    def only_web(request: httpx.Request) -> None:  # sees redirects as well
        if request.url.scheme not in ("http", "https"):
            raise DownloadError(f"'{request.url}' is no address of the web: download by hand")

    # identity: sizes, ranges and checksums are those of the file itself
    headers = {"User-Agent": "ser-hf", "Accept-Encoding": "identity"}
    hooks = {"request": [only_web]}
    try:
        return httpx.Client(follow_redirects=True, timeout=TIMEOUT, headers=headers, event_hooks=hooks)
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        raise DownloadError(f"the proxy that HTTP(S)_PROXY or ALL_PROXY names cannot be used: {error}") from None


def _address(record: ZenodoRecord | DataverseRecord, server: str | None) -> str:
    return (server or record.server).rstrip("/")


def _fetch_zenodo(
    client: httpx.Client, corpus: Corpus, zenodo: ZenodoRecord, folder: Path, server: str | None
) -> list[Path]:
    page = f"{_address(zenodo, server)}/records/{zenodo.number}"
    record = _Record(client, f"or download by hand from {page} and pass it with --{corpus.name}")
    files = [
        _File(folder / name, f"{page}/files/{name}?download=1", size, "md5", digest)
        for name, (size, digest) in zenodo.archives.items()
    ]
    for file in _missing(files, folder):
        with tqdm(desc=file.path.name, total=file.size, initial=file.arrived(), **_BAR) as bar:
            record.download(file, bar)
    return [file.path for file in files]


def _fetch_dataverse(
    client: httpx.Client, corpus: Corpus, dataverse: DataverseRecord, folder: Path, server: str | None
) -> list[Path]:
    address = _address(dataverse, server)
    page = f"https://doi.org/{dataverse.doi.removeprefix('doi:')}"
    record = _Record(client, f"or download by hand from {page} and pass the folder with --{corpus.name}")
    url = f"{address}/api/datasets/:persistentId/?persistentId={dataverse.doi}"
    content = record.request(url, _read_listing)
    try:
        listing = json.loads(content)["data"]["latestVersion"]["files"]
        files, other_files = _official_files(corpus, dataverse, listing, folder, f"{address}/api/access/datafile")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DownloadError(f"{url} holds no listing to be used ({reason}): try again {record.remedy}") from None
    lacking = sorted(set(corpus.inventory()) - set(files))
    if lacking:
        names = ", ".join(lacking[:3]) + (" ..." if len(lacking) > 3 else "")
        raise DownloadError(f"{url} lacks {len(lacking):,} recordings ({names}): try again {record.remedy}")
    if other_files:
        print(f"left out of the {corpus.title} record: {', '.join(map(repr, other_files))}", flush=True)
    missing = _missing(list(files.values()), folder)
    pool = ThreadPoolExecutor(THREADS)
    try:
        with tqdm(desc=corpus.title, total=sum(file.size for file in missing), **_BAR) as bar:
            running = {pool.submit(record.download, file): file for file in missing}
            for future in as_completed(running):
                future.result()
                bar.update(running[future].size)
    finally:
        record.stop.set()
        pool.shutdown(cancel_futures=True)
    return [folder]


def _official_files(
    corpus: Corpus, dataverse: DataverseRecord, listing: list[dict], folder: Path, access: str
) -> tuple[dict[str, "_File"], list[str]]:
    """The official recordings of a Dataverse listing by key, and the names of all else."""
    inventory, files, other_files = corpus.inventory(), {}, []
    for data in (entry["dataFile"] for entry in listing):
        name = data["filename"]
        if name in ("", ".", "..") or re.search(r"[/\\\0]", name):
            raise ValueError(f"{name!r} is no file name")
        key = (corpus.parse(PurePath(name)) or {}).get("key")
        if key not in inventory or key in files or not name.lower().endswith(".wav"):
            other_files.append(name)
            continue
        # old servers name an MD5 only, later ones the kind as well
        checksum = data.get("checksum") or {"type": "MD5", "value": data["md5"]}
        kind, digest, size = _ALGORITHMS[checksum["type"].upper()], checksum["value"].lower(), data["filesize"]
        if not isinstance(size, int) or not 0 < size <= MAX_BYTES:
            raise ValueError(f"{name} of {size} bytes")
        path = folder / dataverse.folder(key) / name
        files[key] = _File(path, f"{access}/{data['id']:d}", size, kind, digest)
    return files, other_files


def _read_listing(response: httpx.Response) -> bytearray:
    content = bytearray()
    for chunk in response.iter_bytes():
        content += chunk
        if len(content) > MAX_LISTING:
            raise DownloadError(f"{response.url} sends more than {MAX_LISTING:,} bytes: do not trust it")
    return content


@dataclass(frozen=True)
class _File:
    """A file of a record: where it goes, where it comes from, what it must be."""

    path: Path
    url: str
    size: int
    algorithm: str
    digest: str

    @property
    def partial(self) -> Path:
        return self.path.with_name(self.path.name + ".partial")

    def arrived(self) -> int:
        return self.partial.stat().st_size if self.partial.exists() else 0

    def hash(self, path: Path) -> str:
        with path.open("rb") as content:
            return hashlib.file_digest(content, lambda: hashlib.new(self.algorithm, usedforsecurity=False)).hexdigest()

    def is_ready(self) -> bool:
        return self.path.is_file() and self.path.stat().st_size == self.size and self.hash(self.path) == self.digest


def _missing(files: list[_File], folder: Path) -> list[_File]:
    """Return the files that must be downloaded, after their folders are made.

    Raises:
        DownloadError: if the disk is too small for them.
    """
    missing = [file for file in files if not file.is_ready()]
    for place in {folder, *(file.path.parent for file in missing)}:
        place.mkdir(parents=True, exist_ok=True)
    _require_space(folder, sum(max(file.size - file.arrived(), 0) for file in missing))
    return missing


def _require_space(folder: Path, need: int) -> None:
    free = shutil.disk_usage(folder).free
    if need > free:
        raise DownloadError(
            f"'{folder}' has {free / 1e6:,.0f} MB free and {need / 1e6:,.0f} MB are needed: free some space"
        )


@dataclass(frozen=True)
class _Record:
    """A record on a server: the client, the remedy in errors, the signal that ends all waits."""

    client: httpx.Client
    remedy: str
    stop: threading.Event = field(default_factory=threading.Event)

    def request(self, url: str, receive: Callable[[httpx.Response], Any], start: Callable[[], int] = int) -> Any:
        """Request a file from byte `start()`, again where that breaks off; `receive` reads it.

        Returns:
            What `receive` returns.
        """
        for attempt in range(ATTEMPTS):
            wait, begin = BACKOFF * 2**attempt, start()
            try:
                with self.client.stream("GET", url, headers={"Range": f"bytes={begin}-"} if begin else {}) as response:
                    status, retry_after = response.status_code, response.headers.get("Retry-After", "")
                    if status in (200, 206, 416):
                        return receive(response)
                    if status not in (429, 500, 502, 503, 504):
                        raise DownloadError(f"{url} answers {status}: try again {self.remedy}")
                    problem = f"it answers {status}"
                    wait = max(wait, min(int(retry_after), MAX_WAIT)) if re.fullmatch(r"\d{1,9}", retry_after) else wait
            except httpx.TransportError as error:
                problem = str(error) or type(error).__name__
            except (httpx.RequestError, httpx.InvalidURL) as error:
                raise DownloadError(f"{url} cannot be used ({error}): try again {self.remedy}") from None
            if attempt + 1 < ATTEMPTS and self.stop.wait(wait):
                break
        raise DownloadError(f"{url} fails {ATTEMPTS} times ({problem}): run it again to go on {self.remedy}")

    def download(self, file: _File, bar: tqdm | None = None) -> None:
        """Download a file, which gets its name once size and checksum are right.

        After a wrong checksum it is downloaded once more from the first byte.
        """
        for _ in range(2):
            if file.arrived() < file.size:
                self.request(file.url, lambda response: self._append(response, file, bar), start=file.arrived)
            digest = file.hash(file.partial)
            if digest == file.digest:
                file.partial.replace(file.path)
                return
            file.partial.unlink()
        mismatch = f"{file.algorithm} {digest} instead of {file.digest}"
        raise DownloadError(f"{file.url} does not match its checksum ({mismatch}): try again {self.remedy}")

    def _append(self, response: httpx.Response, file: _File, bar: tqdm | None) -> None:
        received, total = 0, response.headers.get("Content-Length")
        if response.status_code != 200:  # 206, or 416, which names no range that is served
            served = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if served is None or int(served[1]) != file.arrived():
                file.partial.unlink(missing_ok=True)
                raise httpx.RemoteProtocolError("it does not serve the rest alone")
            received, total = int(served[1]), served[2]
        if total not in (None, "*", str(file.size)):
            raise DownloadError(f"{file.url} has {total} bytes instead of {file.size}: try again {self.remedy}")
        with file.partial.open("ab" if received else "wb") as output:
            for chunk in response.iter_raw():  # in pieces as they arrive: what a buffer holds would be lost
                received += len(chunk)
                if received > file.size:
                    break
                output.write(chunk)
                if bar is not None:
                    bar.update(received - bar.n)
        if received > file.size:
            file.partial.unlink()
            raise DownloadError(f"{file.url} sends more than its {file.size} bytes: try again {self.remedy}")
        if received < file.size:
            raise httpx.RemoteProtocolError(f"it breaks off at {received} of {file.size} bytes")
