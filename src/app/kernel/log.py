"""Structured logs: one JSON object a line on stderr, with the id of the request.

Fields are values that the caller names; nobody passes a body. What looks like a secret is
masked all the same, by field name and by shape, so that a slip does not become a leak.
"""

import atexit
import logging
import re
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from typing import IO, Any, Final

import msgspec

from app.kernel.settings import Secret

request_id: Final[ContextVar[str]] = ContextVar("request_id", default="")

QUEUE_LIMIT = 100_000
FLUSH_EVERY_S = 0.1
TEXT_LIMIT_CHARS = 8_000

_SECRET_NAME = re.compile(r"password|secret|token|authorization|api_?key|cookie|auth_key", re.I)
_SECRET_SHAPE = re.compile(
    r"\b(isk_\w{4})\w+|\b(sk-\w{4})[\w-]{8,}|(Bearer\s+)[\w.~+/-]{8,}=*|\b(eyJ)[\w-]{8,}(?:\.[\w-]+)*"
    r"|(://[^/\s:@]*:)[^/\s@]+(?=@)",
    re.I,
)


def mask(text: str) -> str:
    """Cut keys, bearer tokens, JWTs and URL passwords out of ``text``."""
    return _SECRET_SHAPE.sub(lambda found: next(g for g in found.groups() if g) + "***", text)


class LineWriter:
    """Writes lines in batches from one thread, so that a log line costs the event loop no call."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._lines: deque[bytes] = deque(maxlen=QUEUE_LIMIT)
        self._wake = threading.Event()
        self._flushing = threading.Lock()
        self._thread: threading.Thread | None = None

    def write(self, line: bytes) -> None:
        """Queue one line without its newline. The oldest is dropped when the queue is full."""
        self._lines.append(line)
        if not self._wake.is_set():
            self._wake.set()
        if self._thread is None:
            self._start()

    def flush(self) -> None:
        with self._flushing:
            count = len(self._lines)
            if count:
                text = b"\n".join(self._lines.popleft() for _ in range(count)) + b"\n"
                self._stream.write(text.decode("utf-8", "replace"))
                self._stream.flush()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()
        atexit.register(self.flush)

    def _run(self) -> None:
        while True:
            self._wake.wait()
            time.sleep(FLUSH_EVERY_S)
            self._wake.clear()
            # A full disk or a closed pipe costs lines, and must not cost the thread.
            with suppress(OSError, ValueError):
                self.flush()


class JsonHandler(logging.Handler):
    """Turns every record of the process, libraries' included, into one JSON line."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self._line(record)
        except Exception:  # noqa: BLE001 - whoever logs must never fail because of it
            line = {"level": "error", "event": "log.line-lost", "logger": record.name}
        self._writer.write(msgspec.json.encode(line))

    def _line(self, record: logging.LogRecord) -> dict[str, Any]:
        fields: dict[str, Any] = record.__dict__.get("fields", {})
        line: dict[str, Any] = {
            "at": round(record.created, 6),
            "level": record.levelname.lower(),
            "event": _clean("event", record.getMessage()),
            "logger": record.name,
        }
        if current := request_id.get():
            line["request_id"] = current
        line.update((name, _clean(name, value)) for name, value in fields.items())
        if record.exc_info and record.exc_info[1]:
            trace = "".join(traceback.format_exception(record.exc_info[1]))
            # The end of a traceback says most. Cut before masking, but not within what is kept.
            line["error"] = mask(trace[-2 * TEXT_LIMIT_CHARS :])[-TEXT_LIMIT_CHARS:]
        return line


class EventLog:
    """Logs events by name: ``log.info("auth.login-refused", user_id=...)``."""

    __slots__ = ("_logger",)

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def info(self, event: str, **fields: Any) -> None:
        self._logger.info(event, extra={"fields": fields})

    def warning(self, event: str, **fields: Any) -> None:
        self._logger.warning(event, extra={"fields": fields})

    def exception(self, event: str, error: BaseException, **fields: Any) -> None:
        """Log a bug, with its traceback."""
        self._logger.error(event, exc_info=error, extra={"fields": fields})


def get(name: str) -> EventLog:
    """Return the log of one module."""
    return EventLog(logging.getLogger(f"insula.{name}"))


def configure(level: str, stream: IO[str] = sys.stderr) -> LineWriter:
    """Send everything that is logged in this process to ``stream`` as JSON lines."""
    writer = LineWriter(stream)
    root = logging.getLogger()
    root.handlers[:] = [JsonHandler(writer)]
    root.setLevel(logging.WARNING)
    logging.getLogger("insula").setLevel(level.upper())
    return writer


def _clean(name: str, value: Any) -> Any:
    """Return what may be written of ``value``: masked, of limited length, and plain JSON."""
    if isinstance(value, (bool, int, float, type(None))):
        return value
    if _SECRET_NAME.search(name) or isinstance(value, Secret):
        return "***"
    if isinstance(value, Mapping):
        return {str(key): _clean(str(key), item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_clean(name, item) for item in value]
    text = mask(str(value)[: 2 * TEXT_LIMIT_CHARS])[:TEXT_LIMIT_CHARS]
    return text.encode("utf-8", "replace").decode()
