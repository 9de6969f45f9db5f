"""``insula top``: what it makes of numbers, of a page of metrics, and of a running server."""

import asyncio
import fcntl
import io
import json
import os
import pty
import struct
import sys
import termios
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from textwrap import dedent

import httpx
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from app.modules.routing.adapters.top import (
    ENTER,
    LEAVE,
    KeyRefused,
    ServerUnreachable,
    read_counts,
    watch,
)
from app.modules.routing.domain.top import (
    Buckets,
    CallLine,
    Cell,
    Counted,
    DayLine,
    Reading,
    Size,
    UpstreamLine,
    frame,
    screen,
    text,
)
from tests.house import AUTHORIZED, KEY, free_port, running_server
from tests.waiting import until

URL = "http://127.0.0.1:8000"
INFINITE = float("inf")
BOUNDS = (0.1, 0.5, 1.0, INFINITE)
CHAT = "/v1/chat/completions"


def counted(times: int) -> Counted:
    """What a server has counted that has done the same ``times`` over."""

    def seconds(*counts: int) -> Buckets:
        return Buckets(BOUNDS, tuple(count * times for count in counts))

    return Counted(
        calls={
            ("gpt-4o", "openai", "completed"): seconds(10, 40, 50, 50),
            ("gpt-4o", "openai", "failed"): seconds(0, 0, 0, 2),
            ("llama", "llmd", "completed"): seconds(5, 5, 5, 5),
        },
        overhead=Buckets((0.0001, 0.001, INFINITE), (40 * times, 57 * times, 57 * times)),
        tokens={
            ("gpt-4o", "input"): 12_000 * times,
            ("gpt-4o", "output"): 900 * times,
            ("llama", "input"): 50 * times,
            ("llama", "output"): 20_000 * times,
        },
        started_at_s=1_000.0,
    )


UPSTREAMS = [
    UpstreamLine("llmd", "half-open", 0, 0, 256, 5, 3),
    UpstreamLine("openai", "closed", 256, 12, 256, 15_312, 7, 321.4, 1_204.0),
    UpstreamLine("together", "open", 0, 0, 4, 9, 9),
]
RECENT = [
    CallLine("gpt-4o", "openai", "completed", 200, 1_090_000, 400, is_cached=True),
    CallLine("gpt-4o", "openai", "failed", 502, 1_080_000, 1_200),
    CallLine("llama", "llmd", "failed", 504, 1_040_000, 60_000),
    CallLine("llama", "llmd", "abandoned", 499, 1_040_000, 60),
]
BEFORE = Reading(1_090.0, counted(1), UPSTREAMS, RECENT, DayLine({"USD": 1}, 0))
AFTER = Reading(
    1_100.0, counted(3), UPSTREAMS, RECENT, DayLine({"USD": 1_234_567_890, "EUR": 1_000_000}, 2)
)

SINCE_THE_START = """\
insula top  http://127.0.0.1:8000  since the start
calls/s 1.7       in flight 256       queued 12        cached 25 %
latency p50 280 ms   p95 957 ms     overhead p50 0.07 ms  p95 0.85 ms
tokens/s in 362       out 627       cost today 0.0010 EUR, 1.2346 USD, 2 calls without a price

UPSTREAM      STATE  IN FLIGHT  QUEUE  1ST TOKEN   PLAIN  CALLS  FAILED
llmd      half-open      0/256      0          -       -      5       3
openai       closed    256/256     12     321 ms  1.20 s  15.3k       7
together       open        0/4      0          -       -      9       9

MODEL, SINCE THE START  CALLS     IN    OUT     P50     P95
llama                      15    150  60.0k   50 ms   95 ms
gpt-4o                    156  36.0k   2.7k  313 ms  970 ms

LAST FAILURES  UPSTREAM  STATUS   AFTER       WHEN
gpt-4o           openai     502  1.20 s   20 s ago
llama              llmd     504   1 min  1 min ago"""

LAST_TEN_SECONDS = """\
insula top  http://127.0.0.1:8000  last 10 s
calls/s 11        in flight 256       queued 12        cached 25 %
latency p50 280 ms   p95 957 ms     overhead p50 0.07 ms  p95 0.85 ms
tokens/s in 2.4k      out 4.2k      cost today 0.0010 EUR, 1.2346 USD, 2 calls w"""

SMALL = f"""\
{LAST_TEN_SECONDS}

UPSTREAM (1 of 3)      STATE  IN FLIGHT  QUEUE  1ST TOKEN  PLAIN  CALLS  FAILED
llmd               half-open      0/256      0          -      -      5       3

MODEL, SINCE THE START (1 of 2)  CALLS   IN    OUT    P50    P95
llama                               15  150  60.0k  50 ms  95 ms

LAST FAILURES (1 of 2)  UPSTREAM  STATUS   AFTER      WHEN
gpt-4o                    openai     502  1.20 s  20 s ago"""

NOTHING = """\
insula top  http://127.0.0.1:8000  since the start
calls/s -         in flight 0         queued 0         cached -
latency p50 -        p95 -          overhead p50 -        p95 -
tokens/s in -         out -         cost today 0
This key may not read the metrics.

UPSTREAM  STATE  IN FLIGHT  QUEUE  1ST TOKEN  PLAIN  CALLS  FAILED

MODEL, SINCE THE START  CALLS  IN  OUT  P50  P95

LAST FAILURES  UPSTREAM  STATUS  AFTER  WHEN"""


def plain(lines) -> str:
    return text(lines, is_coloured=False)


class TestFrame:
    def test_shows_everything_since_the_start(self):
        lines = frame(URL, None, AFTER, Size(100))

        assert plain(lines) == SINCE_THE_START

    def test_shows_the_rates_of_the_span_between_two_readings(self):
        lines = frame(URL, BEFORE, AFTER, Size(80))

        assert plain(lines[:4]) == LAST_TEN_SECONDS

    def test_fits_a_small_terminal(self):
        lines = frame(URL, BEFORE, AFTER, Size(80, 13))

        assert plain(lines) == SMALL

    @pytest.mark.parametrize("height", range(1, 30))
    def test_is_never_larger_than_the_terminal(self, height):
        lines = frame(URL, BEFORE, AFTER, Size(17, height), note="trouble")

        assert len(lines) <= height
        assert max(sum(len(cell.text) for cell in line) for line in lines) <= 17

    def test_says_what_is_not_known(self):
        empty = Reading(5.0, None, [], [], DayLine())

        assert plain(frame(URL, None, empty, Size(80))) == NOTHING

    def test_says_what_is_wrong_and_shows_what_was_known(self):
        lines = frame(URL, BEFORE, AFTER, Size(80), note="It does not answer.")

        assert lines[4] == [Cell("It does not answer.", "red")]
        assert plain(lines[:4]) == LAST_TEN_SECONDS

    def test_begins_anew_with_a_server_that_has(self):
        lines = frame(URL, AFTER, Reading(1_110.0, counted(1), [], [], DayLine()), Size(80))

        assert plain(lines)[:200].splitlines()[1].startswith("calls/s 5.7 ")
        assert plain(lines).splitlines()[3].startswith("tokens/s in 1.2k      out 2.1k ")

    def test_shows_no_name_that_a_terminal_would_obey(self):
        evil = UpstreamLine("\x1b[2Jnot\x9bme\n", "closed", 0, 0, 1, 0, 0)
        reading = Reading(1.0, None, [evil], [], DayLine())

        shown = plain(frame(URL, None, reading, Size(80)))

        assert "\n?[2Jnot?me?  closed" in shown
        assert "\x1b" not in shown


class TestText:
    def test_has_no_colour_unless_it_is_wanted(self):
        lines = frame(URL, BEFORE, AFTER, Size(80))

        assert "\x1b" not in text(lines, is_coloured=False)
        assert "\x1b[31m       open\x1b[0m" in text(lines, is_coloured=True)


class TestScreen:
    def test_writes_over_what_was_there_without_clearing_it_first(self):
        shown = screen([[Cell("one")], [Cell("two")]], is_coloured=False)

        assert shown == "\x1b[Hone\x1b[K\ntwo\x1b[K\x1b[J"


class TestQuantile:
    @pytest.mark.parametrize(
        ("share", "seconds"), [(0.1, 0.05), (0.2, 0.1), (0.5, 0.3), (0.9, 0.75), (0.99, 1.0)]
    )
    def test_is_between_the_bounds_of_its_bucket(self, share, seconds):
        buckets = Buckets(BOUNDS, (20, 80, 95, 100)) if share == 0.99 else None
        buckets = buckets or Buckets(BOUNDS, (20, 80, 100, 100))

        assert buckets.quantile(share) == pytest.approx(seconds)

    def test_of_nothing_is_nothing(self):
        assert Buckets().quantile(0.5) is None
        assert Buckets(BOUNDS, (0, 0, 0, 0)).quantile(0.5) is None


class TestReadCounts:
    def test_reads_what_prometheus_is_given(self):
        registry = CollectorRegistry()
        seconds = Histogram(
            "insula_model_call_seconds",
            "Duration.",
            ("model", "upstream", "outcome"),
            buckets=(0.1, 1),
            registry=registry,
        )
        seconds.labels('a "model"\n', "u", "completed").observe(0.5)
        overhead = Histogram(
            "insula_gateway_overhead_seconds", "Ours.", buckets=(0.1,), registry=registry
        )
        overhead.observe(0.05)
        tokens = Counter(
            "insula_model_tokens", "Tokens.", ("model", "direction"), registry=registry
        )
        tokens.labels("m", "input").inc(7)
        other = Counter("insula_http_request", "Not for us.", ("route",), registry=registry)
        other.labels("/").inc()
        page = generate_latest(registry).decode() + "process_start_time_seconds 1.5e+09\n"

        assert read_counts(page) == Counted(
            {('a "model"\n', "u", "completed"): Buckets((0.1, 1.0, INFINITE), (0, 1, 1))},
            Buckets((0.1, INFINITE), (1, 1)),
            {("m", "input"): 7},
            1.5e9,
        )

    def test_of_a_server_that_has_answered_nothing_is_empty(self):
        assert read_counts("# HELP python_info It is.\npython_info 1\n") == Counted()

    def test_refuses_what_is_no_page(self):
        with pytest.raises(ValueError, match="could not convert"):
            read_counts("insula_model_tokens_total{} many\n")


def watched(url: str, key: str = KEY, **environ: str):
    return watch(environ, url, key, io.StringIO(), is_once=True)


class Played:
    """A server that answers what it is told to; ``metrics`` is a status."""

    def __init__(self, metrics: int = 200) -> None:
        self.metrics = metrics
        self.asked: list[str] = []
        self.keys: set[str] = set()

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path_qs)
        self.keys.add(request.headers.get("authorization", ""))
        if request.path == "/metrics":
            return web.Response(status=self.metrics, text="")
        return web.json_response({"items": [], "next": None})


@asynccontextmanager
async def played(handler: Callable) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class TestOnce:
    @pytest.mark.parametrize(
        ("key", "environ", "sent"),
        [
            ("given", {"INSULA_API_KEY": "named"}, "Bearer given"),
            ("", {"INSULA_API_KEY": "named", "APP_BOOTSTRAP_KEY": "owner"}, "Bearer named"),
            ("", {"APP_BOOTSTRAP_KEY": "owner"}, "Bearer owner"),
            ("", {}, ""),
        ],
    )
    async def test_asks_with_the_key_that_is_nearest(self, key, environ, sent):
        server = Played()

        async with played(server.answer) as url:
            await watched(url, key, **environ)

        assert server.keys == {sent}

    async def test_shows_the_rest_to_a_key_that_may_not_read_the_metrics(self):
        async with played(Played(metrics=403).answer) as url:
            shown = await watched(url)

        assert "This key may not read the metrics." in shown
        assert "cost today 0" in shown

    async def test_says_that_nobody_is_there(self):
        with pytest.raises(ServerUnreachable, match="does not answer"):
            await watched(f"http://127.0.0.1:{free_port()}")

    async def test_says_that_it_is_no_url(self):
        with pytest.raises(ServerUnreachable, match="does not answer"):
            await watched("127.0.0.1:8000")

    @pytest.mark.parametrize(
        ("status", "body", "kind", "told"),
        [
            (401, "", KeyRefused, "give one with --key"),
            (403, "", KeyRefused, "give one with --key"),
            (302, "", ServerUnreachable, "answered 302"),
            (500, "", ServerUnreachable, "answered 500"),
            (200, "<html>", ServerUnreachable, "is no Insula"),
            (200, '{"items": [{}]}', ServerUnreachable, "is no Insula"),
        ],
    )
    async def test_says_what_is_wrong_with_an_answer(self, status, body, kind, told):
        async def answer(_: web.Request) -> web.Response:
            return web.Response(status=status, text=body, headers={"location": "/elsewhere"})

        async with played(answer) as url:
            with pytest.raises(kind, match=told):
                await watched(url)


SCRIPT = dedent("""
    import asyncio, fcntl, json, sys, termios
    from app.modules.routing.adapters.top import watch
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    url, environ = sys.argv[1], json.loads(sys.argv[2])
    sys.stdout.write(asyncio.run(watch(environ, url, "", sys.stdout, is_once=False)))
""")


class Person:
    """Somebody at a terminal that shows ``insula top``."""

    def __init__(self, columns: int = 80, lines: int = 24) -> None:
        self._own, self._theirs = pty.openpty()
        self.seen = b""
        self._resize(columns, lines)
        self.settings = termios.tcgetattr(self._theirs)

    async def start(self, url: str, **environ: str) -> None:
        arguments = [sys.executable, "-c", SCRIPT, url, json.dumps(environ)]
        self._process = await asyncio.create_subprocess_exec(
            *arguments,
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            start_new_session=True,
        )
        asyncio.get_running_loop().add_reader(self._own, self._look)

    def press(self, key: bytes) -> None:
        os.write(self._own, key)

    def pull(self, columns: int, lines: int) -> None:
        """Give the window another size."""
        self.seen = b""
        self._resize(columns, lines)

    async def end(self) -> int:
        return await self._process.wait()

    def terminal(self) -> list:
        return termios.tcgetattr(self._theirs)

    async def close(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        asyncio.get_running_loop().remove_reader(self._own)
        os.close(self._own)
        os.close(self._theirs)

    def _resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def _look(self) -> None:
        self.seen += os.read(self._own, 65_536)


@pytest.fixture
async def person():
    person = Person()
    yield person
    await person.close()


@pytest.mark.slow
class TestLive:
    @pytest.mark.parametrize("key", [b"q", b"\x03"], ids=["q", "ctrl-c"])
    async def test_takes_the_terminal_and_gives_it_back(self, person, key):
        async with played(Played().answer) as url:
            await person.start(url)
            await until(lambda: person.seen.count(b"\x1b[H") >= 2)
            person.press(key)
            code = await person.end()

        assert code == 0
        assert person.seen.startswith(ENTER.encode())
        assert person.seen.rstrip().endswith(LEAVE.encode())
        assert person.terminal() == person.settings

    async def test_has_colours_where_nobody_minds(self, person):
        async with played(Played().answer) as url:
            await person.start(url)
            await until(lambda: b"\x1b[1minsula top" in person.seen)
            person.press(b"q")
            await person.end()

    async def test_has_none_where_somebody_does(self, person):
        async with played(Played().answer) as url:
            await person.start(url, NO_COLOR="1")
            await until(lambda: b"\x1b[Hinsula top" in person.seen)
            person.press(b"q")
            await person.end()

        assert b"\x1b[1m" not in person.seen

    async def test_follows_the_size_of_the_window(self, person):
        async with played(Played().answer) as url:
            await person.start(url, NO_COLOR="1")
            await until(lambda: b"1ST TOKEN  PLAIN  CALLS  FAILED" in person.seen)
            person.pull(30, 8)
            await until(lambda: b"UPSTREAM  STATE  IN FLIGHT  QU\x1b[K" in person.seen)
            person.press(b"q")
            await person.end()

    async def test_waits_for_a_server_that_is_away(self, person):
        server = Played()

        async with played(server.answer) as url:
            await person.start(url, NO_COLOR="1")
            await until(lambda: b"insula top" in person.seen)
            server.metrics = 500
            await until(lambda: b"answered 500 for /metrics" in person.seen)
            server.metrics, person.seen = 200, b""
            await until(lambda: b"insula top" in person.seen)
            person.press(b"q")
            await person.end()

        assert b"answered 500" not in person.seen


@pytest.mark.slow
class TestServer:
    async def test_that_has_answered_calls_is_shown_as_it_is(self, tmp_path):
        message = {"role": "user", "content": "hello there"}
        asked = {"model": "dev/echo", "messages": [message]}
        async with (
            running_server(tmp_path / "data") as server,
            httpx.AsyncClient(base_url=server.base_url, headers=AUTHORIZED) as http,
        ):
            for _ in range(3):
                assert (await http.post(CHAT, json=asked)).status_code == 200

            async def shown() -> str:
                found = await watched(server.base_url)
                return found if "dev/echo                    3 " in found else ""

            lines = (await until(shown)).splitlines()

        words = [line.split() for line in lines]
        assert lines[0] == f"insula top  {server.base_url}  since the start"
        assert "in flight 0         queued 0         cached 0 %" in lines[1]
        assert ["dev", "closed", "0/256", "0", "-"] in [found[:5] for found in words]
        assert ["dev/echo", "3", "6", "9"] in [found[:4] for found in words]
        assert "cost today 0" in lines[3]
