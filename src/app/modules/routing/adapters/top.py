"""``insula top``: reads a running server over HTTP, and shows it on a terminal."""

import asyncio
import os
import shutil
import signal
import sys
import termios
import time
import tty
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Annotated, Any, Final, Generic, TextIO, TypeVar

import aiohttp
import msgspec
from msgspec import Meta
from prometheus_client.parser import text_string_to_metric_families

from app.kernel.errors import AppError, BadUpstream, Unauthorized
from app.kernel.settings import Secret, Settings, load
from app.modules.routing.domain.top import (
    Buckets,
    CallLine,
    Counted,
    DayLine,
    Line,
    Reading,
    Size,
    UpstreamLine,
    frame,
    screen,
    text,
)

REFRESH_S: Final = 1.0
# The span that rates and percentiles are about, in readings.
SPAN_READINGS: Final = 10
TIMEOUT_S: Final = 10.0
RECENT_CALLS: Final = 100
# The sums of a day cost the server more than anything else that is asked here.
DAY_EVERY_S: Final = 15.0
DAY_S: Final = 86_400
ANSWER_LIMIT_BYTES: Final = 33_554_432
DEFAULT_COLUMNS: Final = 100
UPSTREAMS: Final = "/api/v1/routing/upstreams"
METRICS: Final = "/metrics"
USAGE: Final = "/api/v1/usage"

CALLS: Final = "insula_model_call_seconds"
OVERHEAD: Final = "insula_gateway_overhead_seconds"
TOKENS: Final = "insula_model_tokens_total"
STARTED: Final = "process_start_time_seconds"
FAMILIES: Final = (CALLS, OVERHEAD, TOKENS, STARTED)

ENTER: Final = "\x1b[?1049h\x1b[?25l"
LEAVE: Final = "\x1b[?25h\x1b[?1049l"
ENDS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

T = TypeVar("T")


class ServerUnreachable(BadUpstream):
    """What is to be watched does not answer, or is no Insula."""

    title = "Server unreachable"


class KeyRefused(Unauthorized):
    """The server wants a key, and another one than was given."""

    title = "Key refused"


class TopSettings(Settings, frozen=True):
    """The environment of whoever watches."""

    api_key: Annotated[
        Secret | None, Meta(description="API key with which `insula top` asks a server.")
    ] = msgspec.field(name="INSULA_API_KEY", default=None)
    bootstrap_key: Secret | None = msgspec.field(name="APP_BOOTSTRAP_KEY", default=None)
    no_color: Annotated[str, Meta(description="Anything: no colours.")] = msgspec.field(
        name="NO_COLOR", default=""
    )


class _Page(msgspec.Struct, Generic[T], frozen=True):
    items: list[T]


class Lookout:
    """Reads the server at ``url``. Without a ``key`` it asks as anybody."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url.rstrip("/")
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._opened: aiohttp.ClientSession | None = None
        self._day = DayLine()
        self._day_until_s = 0.0

    async def read(self) -> Reading:
        """Read everything; ``ServerUnreachable`` or ``KeyRefused`` when that cannot be."""
        at_s = time.time()
        upstreams, recent, counted, today = await asyncio.gather(
            self._list(UPSTREAMS, UpstreamLine, limit=None),
            self._list(USAGE, CallLine, limit=RECENT_CALLS),
            self._counted(),
            self._today(at_s),
        )
        return Reading(at_s, counted, upstreams, recent, today)

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()

    async def _list(self, path: str, kind: type[T], **query: object) -> list[T]:
        asked = {name: str(value) for name, value in query.items() if value is not None}
        status, body = await self._get(path, asked)
        if status != 200:
            raise self._refused(path, status)
        try:
            page: _Page[T] = msgspec.json.decode(body, type=_Page[kind])  # type: ignore[valid-type]  # a class is a type
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise self._stranger() from None
        return page.items

    async def _counted(self) -> Counted | None:
        status, body = await self._get(METRICS, {})
        if status in {401, 403}:
            return None
        if status != 200:
            raise self._refused(METRICS, status)
        try:
            return read_counts(body.decode())
        except ValueError:
            raise self._stranger() from None

    async def _today(self, now_s: float) -> DayLine:
        """The sums of this day in UTC, asked for now and then."""
        if now_s >= self._day_until_s:
            from_ms = int(now_s // DAY_S * DAY_S) * 1000
            days = await self._list(USAGE, DayLine, by="day", limit=1, from_ms=from_ms)
            self._day = days[0] if days else DayLine()
            self._day_until_s = now_s + DAY_EVERY_S
        return self._day

    async def _get(self, path: str, query: Mapping[str, str]) -> tuple[int, bytes]:
        try:
            async with self._session().get(
                self.url + path, params=query, headers=self._headers, allow_redirects=False
            ) as response:
                return response.status, await _body(response)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            kind = type(error).__name__
            raise ServerUnreachable(f"{self.url} does not answer ({kind}).") from error

    def _session(self) -> aiohttp.ClientSession:
        if self._opened is None:
            self._opened = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return self._opened

    def _refused(self, path: str, status: int) -> AppError:
        if status in {401, 403}:
            return KeyRefused(
                f"{self.url} does not take this key; give one with --key, INSULA_API_KEY or "
                "APP_BOOTSTRAP_KEY."
            )
        return ServerUnreachable(f"{self.url} answered {status} for {path}.")

    def _stranger(self) -> ServerUnreachable:
        return ServerUnreachable(f"What answers at {self.url} is no Insula.")


class Terminal:
    """The whole terminal, from ``with`` to its end; left by ``q``, Ctrl-C or a signal.

    ``draw`` is called when its size has changed.
    """

    def __init__(self, out: TextIO, draw: Callable[[], None]) -> None:
        self.left = asyncio.Event()
        self._out = out
        self._draw = draw
        self._loop = asyncio.get_running_loop()
        self._keys = sys.stdin.fileno() if sys.stdin.isatty() else None
        self._before: list[Any] = []

    def __enter__(self) -> "Terminal":
        if self._keys is not None:
            self._before = termios.tcgetattr(self._keys)
            tty.setcbreak(self._keys)
            self._loop.add_reader(self._keys, self._listen, self._keys)
        for number in ENDS:
            self._loop.add_signal_handler(number, self.left.set)
        self._loop.add_signal_handler(signal.SIGWINCH, self._draw)
        _write(self._out, ENTER)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        _write(self._out, LEAVE)
        for number in (*ENDS, signal.SIGWINCH):
            self._loop.remove_signal_handler(number)
        if self._keys is not None:
            self._loop.remove_reader(self._keys)
            termios.tcsetattr(self._keys, termios.TCSADRAIN, self._before)

    def _listen(self, keys: int) -> None:
        pressed = os.read(keys, 64)
        if not pressed or b"q" in pressed:
            self.left.set()


class View:
    """What was read of a server, and how it looks now on ``out``."""

    def __init__(self, lookout: Lookout, out: TextIO, *, is_coloured: bool) -> None:
        self._lookout = lookout
        self._out = out
        self._is_coloured = is_coloured
        self._seen: deque[Reading] = deque(maxlen=SPAN_READINGS + 1)
        self._note = ""

    async def once(self) -> str:
        """One frame, about everything since the server's start."""
        self._seen.append(await self._lookout.read())
        columns = shutil.get_terminal_size((DEFAULT_COLUMNS, 0)).columns
        return text(self._lines(Size(columns)), is_coloured=self._is_coloured)

    async def live(self) -> None:
        """Frame after frame, until the terminal is left. The first reading has to succeed."""
        self._seen.append(await self._lookout.read())
        with Terminal(self._out, self._draw) as terminal:
            looking = asyncio.create_task(self._go_on())
            leaving = asyncio.create_task(terminal.left.wait())
            try:
                await asyncio.wait({looking, leaving}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                looking.cancel()
                leaving.cancel()
                await asyncio.wait({looking, leaving})
        if not looking.cancelled():
            looking.result()

    async def _go_on(self) -> None:
        """Draw and read in turn; a server that is away for a while is waited for."""
        while True:
            self._draw()
            await asyncio.sleep(REFRESH_S)
            try:
                self._seen.append(await self._lookout.read())
                self._note = ""
            except AppError as error:
                self._note = str(error)

    def _draw(self) -> None:
        """Write a whole frame at once, so that no half of one is ever seen."""
        size = os.get_terminal_size(self._out.fileno())
        lines = self._lines(Size(size.columns, size.lines))
        _write(self._out, screen(lines, is_coloured=self._is_coloured))

    def _lines(self, size: Size) -> list[Line]:
        before = self._seen[0] if len(self._seen) > 1 else None
        return frame(self._lookout.url, before, self._seen[-1], size, note=self._note)


async def watch(
    environ: Mapping[str, str], url: str, key: str, out: TextIO, *, is_once: bool
) -> str:
    """Show the server at ``url``; return what is left to be printed.

    Where ``out`` is no terminal, and where one frame is enough, that frame is all there is.
    """
    settings = load(TopSettings, environ)
    lookout = Lookout(url, key or settings.api_key or settings.bootstrap_key or "")
    view = View(lookout, out, is_coloured=out.isatty() and not settings.no_color)
    try:
        if is_once or not out.isatty():
            return await view.once()
        await view.live()
        return ""
    finally:
        await lookout.close()


def read_counts(page: str) -> Counted:
    """Read what is ours in a page of Prometheus' text format; ``ValueError`` if it is none."""
    calls: dict[tuple[str, str, str], dict[float, float]] = {}
    overhead: dict[float, float] = {}
    tokens: dict[tuple[str, str], float] = {}
    started_at_s = None
    ours = "\n".join(line for line in page.splitlines() if line.startswith(FAMILIES))
    for family in text_string_to_metric_families(ours + "\n"):
        for sample in family.samples:
            said = sample.labels
            if sample.name == f"{CALLS}_bucket":
                key = (said["model"], said["upstream"], said["outcome"])
                calls.setdefault(key, {})[float(said["le"])] = sample.value
            elif sample.name == f"{OVERHEAD}_bucket":
                overhead[float(said["le"])] = sample.value
            elif sample.name == TOKENS:
                tokens[said["model"], said["direction"]] = sample.value
            elif sample.name == STARTED:
                started_at_s = sample.value
    return Counted(
        {key: _buckets(counts) for key, counts in calls.items()},
        _buckets(overhead),
        tokens,
        started_at_s,
    )


def _write(out: TextIO, shown: str) -> None:
    out.write(shown)
    out.flush()


def _buckets(counts: Mapping[float, float]) -> Buckets:
    pairs = sorted(counts.items())
    return Buckets(tuple(bound for bound, _ in pairs), tuple(count for _, count in pairs))


async def _body(response: aiohttp.ClientResponse) -> bytes:
    """Read an answer, and not more of it than a page of metrics can be long."""
    try:
        return await response.content.readexactly(ANSWER_LIMIT_BYTES)
    except asyncio.IncompleteReadError as ended:
        return ended.partial
