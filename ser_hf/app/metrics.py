"""What the running app counts, as Prometheus reads it at `/metrics`.

Values of labels come from short lists: templates of routes, methods, status codes, labels of the
model, reasons. Nothing of a visitor or of a recording is among them.
"""

import re
import time
from collections.abc import Callable
from types import TracebackType

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import choose_encoder
from starlette.requests import ClientDisconnect
from starlette.types import Message, Scope, Send

import ser_hf
from ser_hf.app.uploads import UploadError
from ser_hf.audio import AudioError, TooLongError
from ser_hf.inference.prediction import Prediction
from ser_hf.inference.predictor import Predictor
from ser_hf.inference.recordings import TimeoutExceeded
from ser_hf.inference.speaker_adaptation import AdaptationError
from ser_hf.utils.zip_reader import ArchiveError

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Seconds that the histograms divide; `--timeout` gives a recording 60."""

CLIENT_CLOSED = 499
"""Status of a request whose client went away before the response began, as nginx has it."""

REFUSALS = (
    *("closed", "draining", "foreign_host", "foreign_page", "malformed", "queue_full", "rate", "remote", "too_big"),
)
TASKS = ("predict", "batch", "adapt", "live")

_REASONS: dict[type[BaseException], str] = {  # the first that an error is an instance of
    TooLongError: "too_long",
    AudioError: "unreadable",
    TimeoutExceeded: "timeout",
    UploadError: "upload",
    ArchiveError: "archive",
    AdaptationError: "adaptation",
}
_OTHER = "internal"

_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_EXACT = {
    *("/", "/health", "/metrics", "/robots.txt", "/config", "/theme.css", "/favicon.ico", "/manifest.json"),
    *("/predict", "/timeline", "/batch"),
    *(f"/gradio_api/{name}" for name in ("info", "app_id", "upload", "upload_progress", "reset", "cancel")),
    *(f"/gradio_api/{name}" for name in ("queue/join", "queue/data", "run/predict")),
}
_TEMPLATES = [
    (re.compile(pattern), template)
    for pattern, template in (
        (r"/browser(/.*)?", "/browser/{path}"),
        (r"/(static|assets|svelte)/.*", "/static/{path}"),
        (r"/gradio_api/file=.*", "/gradio_api/file={path}"),
        (r"/gradio_api/heartbeat/.*", "/gradio_api/heartbeat/{session}"),
        (r"/gradio_api/stream/[^/]*/close", "/gradio_api/stream/{event}/close"),
        (r"/gradio_api/stream/.*", "/gradio_api/stream/{event}"),
        (r"/gradio_api/mcp(/.*)?", "/gradio_api/mcp/{path}"),
    )
]


def endpoint(path: str) -> str:
    """The template of a route.

    >>> endpoint("/gradio_api/heartbeat/x4j1"), endpoint("/config/"), endpoint("/wp-login.php")
    ('/gradio_api/heartbeat/{session}', '/config', 'other')
    """
    exact = path.rstrip("/") or "/"
    if exact in _EXACT:
        return exact
    return next((template for pattern, template in _TEMPLATES if pattern.fullmatch(path)), "other")


class Metrics:
    """The metrics of one app; several apps in a process have their own."""

    def __init__(self) -> None:
        """Begin at zero."""
        self._registry = registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        self.requests = Counter(
            "ser_hf_http_requests",
            "Requests that were answered.",
            ["method", "endpoint", "status"],
            registry=registry,
        )
        self.request_seconds = Histogram(
            "ser_hf_http_request_duration_seconds",
            "Time from the head of a request to the end of its response; event streams are left out.",
            ["endpoint"],
            buckets=BUCKETS,
            registry=registry,
        )
        self.refusals = Counter(
            "ser_hf_http_refusals", "Requests that were refused, by reason.", ["reason"], registry=registry
        )
        self.waiting = Gauge(
            "ser_hf_queue_waiting",
            "Requests that wait: of the routes (api), or of the page, gradio_client and MCP (page).",
            ["queue"],
            registry=registry,
        )
        self.tasks = Gauge(
            "ser_hf_tasks_in_progress", "Tasks that are being worked on, from any entry.", ["task"], registry=registry
        )
        self.task_seconds = Histogram(
            "ser_hf_task_duration_seconds",
            "Time of a task without its time in a queue; of live, a chunk of sound.",
            ["task"],
            buckets=BUCKETS,
            registry=registry,
        )
        self.predictions = Counter(
            "ser_hf_predictions", "Recordings that were given a label.", ["label"], registry=registry
        )
        self.abstentions = Counter(
            "ser_hf_abstentions", "Recordings on which the model abstained, by reason.", ["reason"], registry=registry
        )
        self.errors = Counter(
            "ser_hf_errors", "Recordings and uploads that got an error, by reason.", ["reason"], registry=registry
        )
        self.audio_seconds = Counter(
            "ser_hf_audio_seconds", "Duration of all recordings that were answered.", registry=registry
        )
        self.load_seconds = Gauge("ser_hf_model_load_seconds", "Time that loading the model took.", registry=registry)
        self.warm_seconds = Gauge(
            "ser_hf_model_warm_seconds", "Time that its first predictions took.", registry=registry
        )
        self.model = Gauge(
            "ser_hf_model_info",
            "The model that the app serves; the value is 1.",
            ["model", "digest", "backend", "version"],
            registry=registry,
        )
        # a series that begins at its first event hides that event from rate()
        _begin(self.refusals, REFUSALS)
        _begin(self.errors, [*_REASONS.values(), _OTHER])
        _begin(self.abstentions, ["low_score", "no_voice"])
        _begin(self.tasks, TASKS)
        _begin(self.task_seconds, TASKS)

    def describe(self, predictor: Predictor) -> None:
        """Name the model that the app serves."""
        digest = predictor.session.backend.digest
        self.model.labels(predictor.public_name, digest, predictor.backend, ser_hf.__version__).set(1)
        _begin(self.predictions, predictor.labels)

    def watch_queue(self, queue: str, length: Callable[[], int]) -> None:
        """Ask `length` at each scrape how many requests wait."""
        self.waiting.labels(queue).set_function(length)

    def refused(self, reason: str) -> None:
        """Count a refused request; `reason` is one of `REFUSALS`."""
        self.refusals.labels(reason).inc()

    def exchange(self, scope: Scope, send: Send) -> "Exchange":
        """Count a request, and the time until it is answered."""
        return Exchange(self, scope, send)

    def task(self, kind: str) -> "Task":
        """Count work that begins, its time and its error; `kind` is one of `TASKS`."""
        return Task(self, kind)

    def answered(self, prediction: Prediction) -> None:
        """Count a prediction."""
        if not prediction["abstained"]:
            self.predictions.labels(prediction["label"]).inc()
        else:
            self.abstentions.labels("low_score" if prediction["segments"] else "no_voice").inc()
        self.audio_seconds.inc(prediction["duration"])

    def failed(self, error: BaseException) -> None:
        """Count a recording or an upload that got an error."""
        self.errors.labels(next((name for kind, name in _REASONS.items() if isinstance(error, kind)), _OTHER)).inc()

    def text(self, accept: str = "") -> tuple[bytes, str]:
        """All values, and their content type: of Prometheus, or of OpenMetrics where `accept` wants
        it."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class Exchange:
    """One request and its response, counted when the response is complete."""

    def __init__(self, metrics: Metrics, scope: Scope, send: Send) -> None:
        """`send` goes to the client."""
        self._metrics, self._send = metrics, send
        self._method = scope["method"] if scope["method"] in _METHODS else "other"
        self._endpoint = endpoint(scope["path"])
        self._is_stream = False
        self.status = CLIENT_CLOSED

    async def send(self, message: Message) -> None:
        """Pass a message on, and remember the status."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._is_stream = any(
                name.lower() == b"content-type" and value.startswith(b"text/event-stream")
                for name, value in message.get("headers", [])
            )
        await self._send(message)

    def __enter__(self) -> "Exchange":
        self._began = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.status == CLIENT_CLOSED and isinstance(error, Exception) and not isinstance(error, ClientDisconnect):
            self.status = 500  # the server answers so in our place
        self._metrics.requests.labels(self._method, self._endpoint, self.status).inc()
        if not self._is_stream:
            self._metrics.request_seconds.labels(self._endpoint).observe(time.perf_counter() - self._began)


class Task:
    """Work on what one request handed over, whichever way it came in."""

    def __init__(self, metrics: Metrics, kind: str) -> None:
        """Of a `kind` among `TASKS`."""
        self._metrics, self._in_progress = metrics, metrics.tasks.labels(kind)
        self._seconds = metrics.task_seconds.labels(kind)

    def __enter__(self) -> None:
        self._in_progress.inc()
        self._began = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._in_progress.dec()
        self._seconds.observe(time.perf_counter() - self._began)
        if isinstance(error, Exception):
            self._metrics.failed(error)


def _begin(metric: Counter | Gauge | Histogram, values: list[str] | tuple[str, ...]) -> None:
    for value in values:
        metric.labels(value)
