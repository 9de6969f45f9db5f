"""HTTP clients: one suite for aiohttp's and for our own, against a server scripted byte by byte.

Where a class or a test takes ``own``, it is for our own client alone; the reason stands there.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.modules.routing.adapters.aiohttp import AiohttpClient
from app.modules.routing.adapters.http1 import Http1Client, UnsendableRequest
from app.modules.routing.adapters.http1_stream import Bell, Stream
from app.modules.routing.domain.faults import AnswerTooLarge, UpstreamSilent, UpstreamUnreachable
from app.modules.routing.ports import Answer, AnswerStream, Deadlines, HttpClient, HttpRequest
from tests.scripted_upstream import Peer, RawServer, Script, raw_server
from tests.waiting import until

LIMIT_BYTES = 100_000
FLOOD_BYTES = 100_000_000
CLIENTS = [AiohttpClient, Http1Client]
POST = HttpRequest("chat/completions", b'{"model":"m"}')
GET = HttpRequest("models")

HELLO = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    b"2;extension=1\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
)
CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
STREAM_END = b"0\r\n\r\n"

KEPT_ANSWERS = {
    "a length": HELLO,
    "chunks": CHUNKED,
    "chunks and a trailer": CHUNKED[:-2] + b"Content-Type: text/html\r\n\r\n",
    "an empty header": HELLO.replace(b"200 OK\r\n", b"200 OK\r\nX-Empty:\r\n"),
    "no reason": HELLO.replace(b"200 OK", b"200"),
    "HTTP/1.0 that keeps": HELLO.replace(b"/1.1 200 OK", b"/1.0 200 OK\r\nconnection: keep-alive"),
    "an offer to upgrade": HELLO.replace(
        b"200 OK", b"200 OK\r\nconnection: upgrade\r\nupgrade: h2c"
    ),
}
CLOSED_ANSWERS = {
    "connection: close": HELLO.replace(b"200 OK\r\n", b"200 OK\r\nConnection: close\r\n"),
    "HTTP/1.0": HELLO.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "no length": HELLO.replace(b"Content-Length: 5\r\n", b""),
}
BODILESS_ANSWERS = {
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "304": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    "length 0": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
}
BROKEN_ANSWERS = {
    "nothing": b"",
    "half a head": HELLO[:30],
    "half a body": HELLO[:-2],
    "half of the chunks": CHUNKED[:-12],
    "no last chunk": CHUNKED[:-5],
    "half an interim head": b"HTTP/1.1 100 Continue\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.9\r\n",
    "a chunk of no size": CHUNKED_HEAD + b"zz\r\nhello\r\n0\r\n\r\n",
    "two lengths": HELLO.replace(b"Length: 5", b"Length: 5\r\nContent-Length: 4"),
    "a length and chunks": CHUNKED.replace(b"\r\n\r\n", b"\r\ncontent-length: 5\r\n\r\n", 1),
    "a negative length": HELLO.replace(b"Length: 5", b"Length: -5"),
}

# aiohttp would rather be given a file.
big_bodies = pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")

Connect = Callable[..., HttpClient]


@pytest.fixture(params=CLIENTS)
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Connect]:
    """Make clients of one kind, and close them after the test."""
    async with connecting(request.param) as connect:
        yield connect


@pytest.fixture
async def own() -> AsyncIterator[Connect]:
    async with connecting(Http1Client) as connect:
        yield connect


@asynccontextmanager
async def connecting(kind: type) -> AsyncIterator[Connect]:
    clients: list[HttpClient] = []

    def connect(server: RawServer | str, connections: int = 10, **more: float) -> HttpClient:
        url = server if isinstance(server, str) else server.base_url
        client: HttpClient = kind(
            "mock", url, answer_limit_bytes=LIMIT_BYTES, max_connections=connections, **more
        )
        clients.append(client)
        return client

    yield connect
    for client in clients:
        await client.close()


def answering(*pieces: bytes) -> Script:
    """Answer every request of a connection with the same bytes."""

    async def script(peer: Peer) -> None:
        while await peer.request():
            await peer.send(*pieces)

    return script


def once(*pieces: bytes) -> Script:
    """Answer one request of a connection, and close it."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(*pieces)

    return script


def holding(*pieces: bytes) -> Script:
    """Answer one request of a connection, and leave it open until the client hangs up."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(*pieces)
        await peer.gone()

    return script


class Gate:
    """Answers requests when it is told to, one by one and in the order of their coming."""

    def __init__(self) -> None:
        self._held: list[asyncio.Event] = []
        self.came = 0

    async def script(self, peer: Peer) -> None:
        while await peer.request():
            event = asyncio.Event()
            self._held.append(event)
            self.came += 1
            await event.wait()
            await peer.send(HELLO)

    async def release(self) -> None:
        """Answer the request that is held longest, or the next that comes."""
        await until(lambda: self._held)
        self._held.pop(0).set()


async def flooding(peer: Peer) -> None:
    """Send a stream until the client takes no more, and say as a second request how much."""
    server = peer.server
    await peer.request()
    await peer.send(b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
    server.requests.append(b"%d" % await peer.send_until_blocked(FLOOD_BYTES))


@contextmanager
def deaf_server() -> Iterator[str]:
    """A server whose queue is full, so that a connection to it is never made."""
    with socket.socket() as door, ExitStack() as queue:
        door.bind(("127.0.0.1", 0))
        door.listen(0)
        for _ in range(4):
            waiting = queue.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(door.getsockname())
        yield f"http://127.0.0.1:{door.getsockname()[1]}/v1"


async def later(after_s: float) -> None:
    """Let time pass where the passing of time is what is tested."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + after_s
    await until(lambda: loop.time() > end_s)


def chunk(part: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(part), part)


def cuts(whole: bytes) -> list[tuple[bytes, bytes]]:
    return [(whole[:at], whole[at:]) for at in range(1, len(whole))]


async def opened(client: HttpClient, request: HttpRequest = POST) -> AnswerStream:
    stream = await client.open(request)
    assert isinstance(stream, AnswerStream)
    return stream


async def collect(stream: AnswerStream) -> bytes:
    return b"".join([part async for part in stream.chunks])


async def read_on(stream: AnswerStream) -> bytes:
    return await anext(stream.chunks)


class TestRequest:
    async def test_is_a_post_of_json_with_the_bytes_as_they_are(self, connect):
        body = b'{ "model":"m",\n"odd":1.10 }'
        async with raw_server(answering(HELLO)) as server:
            await connect(server).fetch(HttpRequest("chat/completions", body))

        head, _, sent = server.requests[0].partition(b"\r\n\r\n")
        line, *fields = head.lower().split(b"\r\n")
        assert sent == body
        assert line == b"post /v1/chat/completions http/1.1"
        assert sorted(fields) == [
            b"accept-encoding: identity",
            b"content-length: 27",
            b"content-type: application/json",
            b"host: 127.0.0.1:%d" % server.port,
        ]

    async def test_is_a_get_without_a_body(self, connect):
        async with raw_server(answering(HELLO)) as server:
            await connect(server).fetch(HttpRequest("models?limit=5"))

        assert server.requests[0].startswith(b"GET /v1/models?limit=5 HTTP/1.1\r\n")
        assert b"content-length" not in server.requests[0].lower()

    async def test_carries_the_headers_that_are_given(self, connect):
        headers = (("authorization", "Bearer sk-1"), ("Content-Type", "text/plain"))
        async with raw_server(answering(HELLO)) as server:
            await connect(server).fetch(HttpRequest("x", b"{}", headers))

        sent = server.requests[0].lower()
        assert b"\r\nauthorization: bearer sk-1\r\n" in sent
        assert b"\r\ncontent-type: text/plain\r\n" in sent
        assert b"application/json" not in sent

    async def test_keeps_the_headers_of_one_caller_from_the_next(self, connect):
        async with raw_server(answering(HELLO)) as server:
            client = connect(server)
            for key in ("sk-1", "sk-2"):
                await client.fetch(HttpRequest("x", b"{}", (("authorization", key),)))

        assert [b"sk-1" in sent for sent in server.requests] == [True, False]

    @big_bodies
    @pytest.mark.parametrize("size", [65_536, 65_537, 8_000_000])
    async def test_arrives_whole_however_large_it_is(self, connect, size):
        body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        async with raw_server(answering(HELLO)) as server:
            await connect(server).fetch(HttpRequest("x", body))

        assert server.requests[0].partition(b"\r\n\r\n")[2] == body

    @pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
    async def test_finds_a_server_by_its_name_or_address(self, connect, host):
        async with raw_server(answering(HELLO), host) as server:
            bracketed = f"[{host}]" if ":" in host else "localhost"
            await connect(f"http://{bracketed}:{server.port}/v1").fetch(GET)

        assert f"Host: {bracketed}:{server.port}\r\n".lower().encode() in server.requests[0].lower()

    # aiohttp refuses some of these too, with errors of its own.
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("authorization", "Bearer a\r\nx-admin: 1"),
            ("authorization", "Bearer a\nb"),
            ("authorization", "Bearer a\0"),
            ("authorization", "Bearer a\udc80"),
            ("x-a: 1\r\nx-b", "1"),
            ("x a", "1"),
            ("", "1"),
            ("Content-Length", "0"),
            ("transfer-encoding", "chunked"),
            ("host", "elsewhere"),
        ],
    )
    async def test_refuses_a_header_that_would_be_read_as_more_than_itself(self, own, name, value):
        async with raw_server(answering(HELLO)) as server:
            with pytest.raises(UnsendableRequest) as caught:
                await own(server).fetch(HttpRequest("x", b"{}", ((name, value),)))

        assert server.accepted == 0
        assert value == "1" or value not in str(caught.value)

    @pytest.mark.parametrize("path", ["x HTTP/1.1\r\nx-admin: 1", "x\ny", "x y", "x\0", "ü"])
    async def test_refuses_a_path_that_would_be_read_as_more_than_itself(self, own, path):
        async with raw_server(answering(HELLO)) as server:
            with pytest.raises(UnsendableRequest, match="percent-encoded"):
                await own(server).fetch(HttpRequest(path, b"{}"))

        assert server.accepted == 0

    # aiohttp's client is for these.
    @pytest.mark.parametrize(
        "url", ["https://a/v1", "http://key@a/v1", "http:///v1", "a/v1", "http://a/v1?b=c"]
    )
    def test_needs_a_base_url_without_tls_and_credentials(self, url):
        with pytest.raises(ValueError, match="mock: the base URL"):
            Http1Client("mock", url, answer_limit_bytes=1, max_connections=1)


class TestFetch:
    @pytest.mark.parametrize("answer", KEPT_ANSWERS.values(), ids=KEPT_ANSWERS)
    async def test_reads_every_framing_cut_anywhere(self, connect, answer):
        pieces = iter(cuts(answer))

        async def script(peer: Peer) -> None:
            while await peer.request():
                await peer.send(*next(pieces))

        async with raw_server(script) as server:
            client = connect(server)
            answers = [await client.fetch(POST) for _ in range(len(answer) - 1)]

        assert set(answers) == {Answer(200, "application/json", b"hello")}
        assert server.accepted == 1

    @pytest.mark.parametrize("answer", CLOSED_ANSWERS.values(), ids=CLOSED_ANSWERS)
    async def test_keeps_no_connection_that_the_server_will_close(self, connect, answer):
        async with raw_server(once(*answer.partition(b"\r\n\r\n"))) as server:
            client = connect(server)
            answers = [await client.fetch(POST) for _ in range(3)]

        assert set(answers) == {Answer(200, "application/json", b"hello")}
        assert server.accepted == 3

    @pytest.mark.parametrize("answer", BODILESS_ANSWERS.values(), ids=BODILESS_ANSWERS)
    async def test_waits_for_no_body_where_there_is_none(self, connect, answer):
        async with raw_server(answering(answer)) as server:
            client = connect(server)
            answers = [await client.fetch(POST) for _ in range(2)]

        assert [found.body for found in answers] == [b"", b""]
        assert answers[0].status == int(answer[9:12])
        assert server.accepted == 1

    async def test_hands_an_error_over_with_its_retry_after(self, connect):
        answer = HELLO.replace(b"200 OK", b"429 Slow Down\r\nRetry-After: 7")
        async with raw_server(answering(answer)) as server:
            found = await connect(server).fetch(POST)

        assert found == Answer(429, "application/json", b"hello", "7")

    async def test_follows_no_redirect(self, connect):
        answer = HELLO.replace(b"200 OK", b"302 Found\r\nLocation: http://169.254.169.254/")
        async with raw_server(answering(answer)) as server:
            found = await connect(server).fetch(POST)

        assert found.status == 302

    async def test_takes_no_trailer_for_a_header(self, connect):
        answer = CHUNKED_HEAD + b"0\r\nContent-Type: text/html\r\nRetry-After: 7\r\n\r\n"
        async with raw_server(answering(answer)) as server:
            found = await connect(server).fetch(POST)

        assert found == Answer(200, "", b"")

    async def test_reads_past_interim_answers_cut_anywhere(self, connect):
        answer = (
            b"HTTP/1.1 100 Continue\r\n\r\n"
            b"HTTP/1.1 103 Early Hints\r\ncontent-type: a\r\nretry-after: 9\r\n\r\n" + HELLO
        )
        pieces = iter(cuts(answer))

        async def script(peer: Peer) -> None:
            while await peer.request():
                await peer.send(*next(pieces))

        async with raw_server(script) as server:
            client = connect(server)
            answers = [await client.fetch(POST) for _ in range(len(answer) - 1)]

        assert set(answers) == {Answer(200, "application/json", b"hello")}

    # aiohttp hands a 101 over, as a client that upgrades must.
    @pytest.mark.parametrize(
        "head",
        [
            b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
            b"HTTP/1.1 101 Switching\r\n\r\n",
            b"HTTP/1.1 099 Odd\r\n\r\n",
        ],
        ids=["101", "101 to nothing", "099"],
    )
    async def test_refuses_a_status_that_is_no_answer(self, own, head):
        async with raw_server(holding(head)) as server:
            with pytest.raises(UpstreamUnreachable):
                await own(server).fetch(POST)

            await until(lambda: server.hung_up == 1)

    @pytest.mark.parametrize("answer", BROKEN_ANSWERS.values(), ids=BROKEN_ANSWERS)
    async def test_reports_an_answer_that_breaks_off_or_is_none(self, connect, answer):
        async with raw_server(once(answer)) as server:
            with pytest.raises(UpstreamUnreachable, match=r"^mock cannot be reached or broke off"):
                await connect(server).fetch(POST)

    # aiohttp takes a reset for an end.
    async def test_reports_a_reset_even_where_the_end_would_be_the_end(self, own):
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(CLOSED_ANSWERS["no length"])
            peer.reset()

        async with raw_server(script) as server:
            with pytest.raises(UpstreamUnreachable):
                await own(server).fetch(POST)

    async def test_reports_a_server_that_is_not_there_without_its_address(self, connect):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{probe.getsockname()[1]}/v1"
            with pytest.raises(UpstreamUnreachable) as caught:
                await connect(url).fetch(POST)

        assert "127.0.0.1" not in str(caught.value)

    @pytest.mark.parametrize(
        "head",
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n",
            CHUNKED_HEAD + b"30d40\r\n",
        ],
        ids=["a length", "no length", "chunks"],
    )
    async def test_cuts_an_answer_over_the_limit(self, connect, head):
        async with raw_server(holding(head, bytes(LIMIT_BYTES + 1))) as server:
            with pytest.raises(AnswerTooLarge, match="mock sent more than 100000 bytes"):
                await connect(server).fetch(POST)

            await until(lambda: server.hung_up == 1)

    async def test_takes_an_answer_of_the_limit_itself(self, connect):
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"
        async with raw_server(answering(head, bytes(LIMIT_BYTES))) as server:
            found = await connect(server).fetch(POST)

        assert found.body == bytes(LIMIT_BYTES)

    # aiohttp reads on for as long as a trailer or an extension lasts.
    @pytest.mark.parametrize(
        "endless",
        [
            b"HTTP/1.1 200 OK\r\nx: ",
            b"HTTP/1.1 100 Continue\r\n\r\n" * 4000,
            CHUNKED_HEAD + b"1\r\nx\r\n0\r\nx: ",
            CHUNKED_HEAD + b"1;x=",
        ],
        ids=["head", "interim answers", "trailer", "extension"],
    )
    async def test_cuts_what_never_comes_to_a_body(self, own, endless):
        async with raw_server(holding(endless, *[b"x" * 10_000] * 10)) as server:
            with pytest.raises(UpstreamUnreachable):
                await own(server).fetch(POST)

            await until(lambda: server.hung_up == 1)

    @big_bodies
    async def test_takes_an_answer_that_comes_before_the_request_is_sent(self, connect):
        early = HELLO.replace(b"200 OK", b"413 Too Large")

        async def script(peer: Peer) -> None:
            await peer.head()
            await peer.send(early)
            await peer.gone()

        async with raw_server(script) as server:
            client = connect(server)
            answers = [await client.fetch(HttpRequest("x", bytes(20_000_000))) for _ in range(2)]

        assert [found.status for found in answers] == [413, 413]
        assert server.accepted == 2


class TestReuse:
    # aiohttp takes the one that was free first.
    async def test_takes_the_connection_that_was_free_last(self, own):
        gate = Gate()
        async with raw_server(gate.script) as server:
            client = own(server)
            calls = [asyncio.create_task(client.fetch(POST)) for _ in range(2)]
            await until(lambda: gate.came == 2)
            for _ in calls:
                await gate.release()
                await asyncio.wait(calls, return_when="FIRST_COMPLETED")
                calls = [call for call in calls if not call.done()]

            again = asyncio.create_task(client.fetch(POST))
            await gate.release()
            await again

        first, last, taken = server.served
        assert taken == last != first

    async def test_drops_a_kept_connection_that_the_server_has_closed(self, connect):
        async with raw_server(once(HELLO)) as server:
            client = connect(server)
            await client.fetch(POST)
            await until(lambda: server.open == 0)

            answer = await client.fetch(POST)

        assert answer.body == b"hello"

    async def test_drops_a_connection_that_was_kept_for_long(self, own):
        async with raw_server(answering(HELLO)) as server:
            await own(server, keep_s=0.05).fetch(POST)

            await until(lambda: server.hung_up == 1)

    async def test_keeps_a_connection_that_is_used_for_long(self, own):
        async with raw_server(answering(HELLO)) as server:
            client, loop = own(server, keep_s=0.2), asyncio.get_running_loop()
            end_s = loop.time() + 0.5

            async def is_later() -> bool:
                await client.fetch(POST)
                return loop.time() > end_s

            await until(is_later)

        assert server.accepted == 1

    # aiohttp gives the next caller an answer that comes while nobody waits for one.
    @pytest.mark.parametrize(
        "pieces",
        [(HELLO + s,) for s in (HELLO, b"xyz", b"H")]
        + [(HELLO, s) for s in (HELLO, b"xyz", b"H", b"\r\n")],
    )
    async def test_gives_no_caller_what_came_after_the_answer_of_another(self, own, pieces):
        good = HELLO.replace(b"hello", b"good!")

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(*(pieces if peer.number == 1 else [good]))
            await peer.gone()

        async with raw_server(script) as server:
            client = own(server)
            first = await client.fetch(POST)
            await until(lambda: server.hung_up == 1)

            second = await client.fetch(POST)

        assert (first.body, second.body) == (b"hello", b"good!")

    async def test_sends_a_get_again_when_a_kept_connection_died_in_that_moment(self, connect):
        async with raw_server(self.dying) as server:
            client = connect(server)
            await client.fetch(GET)

            answer = await client.fetch(GET)

        assert answer.body == b"hello"
        assert (len(server.requests), server.accepted) == (3, 2)

    # aiohttp takes another one that was kept.
    async def test_sends_a_get_again_by_a_fresh_connection(self, own):
        async with raw_server(self.dying) as server:
            client = own(server)
            await asyncio.gather(client.fetch(GET), client.fetch(GET))

            answer = await client.fetch(GET)

        assert answer.body == b"hello"
        assert server.served[3:] == [3]

    # aiohttp does not wait behind others for its second try.
    async def test_sends_a_get_again_only_once(self, own):
        async with raw_server(self.dying) as server:
            client = own(server, connections=1)
            await client.fetch(GET)

            # While the post has the fresh connection, the get waits to be the second on it.
            answers = await asyncio.gather(
                client.fetch(GET), client.fetch(POST), return_exceptions=True
            )

        assert [type(found) for found in answers] == [UpstreamUnreachable, Answer]
        assert server.served == [1, 1, 2, 2]

    async def test_sends_no_post_again_for_it_may_have_been_executed(self, connect):
        async with raw_server(self.dying) as server:
            client = connect(server)
            await client.fetch(POST)

            with pytest.raises(UpstreamUnreachable):
                await client.fetch(POST)

        assert len(server.requests) == 2

    # aiohttp repeats any GET whose connection ends before its answer does.
    async def test_sends_no_get_again_on_a_fresh_connection(self, own):
        async with raw_server(once(b"")) as server:
            with pytest.raises(UpstreamUnreachable):
                await own(server).fetch(GET)

        assert len(server.requests) == 1

    # As above.
    async def test_sends_no_get_again_whose_answer_had_begun(self, own):
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(HELLO)
            await peer.request()
            await peer.send(b"HTTP/1.1")

        async with raw_server(script) as server:
            client = own(server)
            await client.fetch(GET)

            with pytest.raises(UpstreamUnreachable):
                await client.fetch(GET)

        assert len(server.requests) == 2

    @staticmethod
    async def dying(peer: Peer) -> None:
        """Answer once, then take a request and close without a byte."""
        await peer.request()
        await peer.send(HELLO)
        await peer.request()


class TestLimit:
    async def test_opens_no_more_connections_than_it_may(self, connect):
        gate = Gate()
        async with raw_server(gate.script) as server:
            client = connect(server, connections=2)
            calls = [asyncio.create_task(client.fetch(POST)) for _ in range(6)]
            await until(lambda: gate.came == 2)
            for _ in calls:
                await gate.release()

            answers = await asyncio.gather(*calls)

        assert len(answers) == 6
        assert server.accepted == 2

    async def test_serves_who_waits_in_order(self, connect):
        order: list[int] = []

        async def call(number: int) -> None:
            await client.fetch(POST)
            order.append(number)

        async with raw_server(answering(HELLO)) as server:
            client = connect(server, connections=1)
            await asyncio.gather(*map(call, range(5)))

        assert order == [0, 1, 2, 3, 4]

    async def test_loses_no_place_to_one_who_gives_up_waiting(self, connect):
        gate = Gate()
        async with raw_server(gate.script) as server:
            client = connect(server, connections=1)
            first = asyncio.create_task(client.fetch(POST))
            await until(lambda: gate.came == 1)
            waiting = [asyncio.create_task(client.fetch(POST)) for _ in range(2)]
            await asyncio.sleep(0)

            waiting[0].cancel()
            await gate.release()
            await first
            await until(lambda: gate.came == 2)
            await gate.release()

            assert (await waiting[1]).status == 200
        assert server.accepted == 1

    async def test_loses_no_place_to_one_who_gives_up_just_before_their_turn(self, connect):
        async def script(peer: Peer) -> None:
            while await peer.request():
                asyncio.get_running_loop().call_soon(waiting[0].cancel)
                await peer.send(HELLO)

        async with raw_server(script) as server:
            client = connect(server, connections=1)
            first = asyncio.create_task(client.fetch(POST))
            waiting = [asyncio.create_task(client.fetch(POST)) for _ in range(2)]
            await first

            assert (await waiting[1]).status == 200
        assert server.accepted == 1

    async def test_loses_no_place_to_one_who_gives_up_when_it_is_their_turn(self, connect):
        async def cancel_after() -> None:
            await client.fetch(POST)
            waiting.cancel()

        async with raw_server(answering(HELLO)) as server:
            client = connect(server, connections=1)
            first = asyncio.create_task(cancel_after())
            await asyncio.sleep(0)
            waiting = asyncio.create_task(client.fetch(POST))
            await first
            await asyncio.wait([waiting])

            answer = await client.fetch(POST)

        assert answer.status == 200

    async def test_loses_no_place_to_a_connection_that_breaks(self, connect):
        async with raw_server(once(b"")) as server:
            client = connect(server, connections=1)
            calls = [client.fetch(POST) for _ in range(4)]

            faults = await asyncio.gather(*calls, return_exceptions=True)

        assert [type(fault) for fault in faults] == [UpstreamUnreachable] * 4

    async def test_loses_no_place_to_a_connection_that_is_not_made(self, connect):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            client = connect(f"http://127.0.0.1:{probe.getsockname()[1]}", connections=1)

            faults = await asyncio.gather(
                *[client.fetch(POST) for _ in range(4)], return_exceptions=True
            )

        assert [type(fault) for fault in faults] == [UpstreamUnreachable] * 4

    async def test_lets_nobody_wait_for_ever(self, connect):
        request = HttpRequest("x", b"{}", (), Deadlines(connect_s=0.1, first_byte_s=0.1))
        async with raw_server(holding()) as server:
            client = connect(server, connections=1)
            first = asyncio.create_task(client.fetch(POST))
            await until(lambda: server.requests)

            with pytest.raises(UpstreamSilent, match=r"mock did not answer within 0\.1 s"):
                await client.fetch(request)

            first.cancel()


class TestDeadlines:
    async def test_end_the_wait_for_a_connection(self, connect):
        request = HttpRequest("x", b"{}", (), Deadlines(connect_s=0.1, first_byte_s=0.1))
        silent = pytest.raises(UpstreamSilent, match=r"mock did not answer within 0\.1 s")
        with deaf_server() as url, silent:
            await connect(url).fetch(request)

    async def test_end_the_wait_for_a_head_that_comes_by_drops(self, connect):
        request = HttpRequest("x", b"{}", (), Deadlines(connect_s=0.05, first_byte_s=0.1))
        async with raw_server(holding(HELLO[:10], HELLO[10:20])) as server:
            with pytest.raises(UpstreamSilent, match=r"mock did not answer within 0\.1 s"):
                await connect(server).fetch(request)

            await until(lambda: server.hung_up == 1)

    @big_bodies
    async def test_end_the_wait_for_a_server_that_reads_no_request(self, connect):
        deadlines = Deadlines(connect_s=0.05, first_byte_s=0.1)

        async def script(peer: Peer) -> None:
            await peer.head()
            await asyncio.Event().wait()

        async with raw_server(script) as server:
            with pytest.raises(UpstreamSilent, match=r"mock did not answer within 0\.1 s"):
                await connect(server).fetch(HttpRequest("x", bytes(20_000_000), (), deadlines))

    # aiohttp's client counts it from the beginning, and the wait for a connection with it.
    async def test_count_the_wait_for_a_head_from_the_end_of_the_request(self, own):
        request = HttpRequest("x", bytes(8_000_000), (), Deadlines(first_byte_s=0.6))

        async def script(peer: Peer) -> None:
            await later(0.2)
            await peer.request()
            await later(0.5)
            await peer.send(HELLO)

        async with raw_server(script) as server:
            answer = await own(server).fetch(request)

        assert answer.status == 200

    async def test_end_a_silence_within_an_answer(self, connect):
        request = HttpRequest("x", b"{}", (), Deadlines(idle_s=0.1))
        async with raw_server(holding(HELLO[:-2])) as server:
            with pytest.raises(UpstreamSilent, match=r"mock did not answer within 0\.1 s"):
                await connect(server).fetch(request)

            await until(lambda: server.hung_up == 1)

    async def test_end_a_silence_within_a_stream_after_what_has_come(self, connect):
        request = HttpRequest("x", b"{}", (), Deadlines(idle_s=0.1))

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(STREAM_HEAD)
            await later(0.05)
            await peer.send(chunk(b"one"))
            await peer.gone()

        async with raw_server(script) as server:
            stream = await opened(connect(server), request)
            first = await read_on(stream)

            with pytest.raises(UpstreamSilent, match=r"mock did not answer within 0\.1 s"):
                await read_on(stream)

            await until(lambda: server.hung_up == 1)
        assert first == b"one"

    async def test_leave_alone_what_is_slow_and_steady(self, connect):
        request = HttpRequest("x", b"{}", (), Deadlines(idle_s=0.2))

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(STREAM_HEAD)
            for _ in range(5):
                await later(0.1)
                await peer.send(chunk(b"x"))
            await peer.send(STREAM_END)

        async with raw_server(script) as server:
            stream = await opened(connect(server), request)

            assert await collect(stream) == b"xxxxx"

    async def test_are_those_of_each_call(self, connect):
        gate = Gate()
        async with raw_server(gate.script) as server:
            client = connect(server)
            patient = asyncio.create_task(client.fetch(POST))
            await until(lambda: gate.came == 1)
            await gate.release()
            await patient
            hasty = HttpRequest("x", b"{}", (), Deadlines(connect_s=0.05, first_byte_s=0.05))

            with pytest.raises(UpstreamSilent):
                await client.fetch(hasty)

        assert server.accepted == 1

    # aiohttp counts this silence as the server's: its timer runs while it does not read.
    async def test_leave_alone_a_server_that_waits_for_a_slow_reader(self, own):
        request = HttpRequest("x", b"{}", (), Deadlines(idle_s=0.1))
        async with raw_server(flooding) as server:
            stream = await opened(own(server), request)
            await until(lambda: server.requests[1:])
            await later(0.3)

            assert len(await collect(stream)) == int(server.requests[1])


class TestCancel:
    async def test_of_a_call_that_connects_leaves_its_place_to_the_next(self, connect):
        with deaf_server() as url:
            client = connect(url, connections=1)
            call = asyncio.create_task(client.fetch(POST))
            await later(0.05)

            call.cancel()

            await asyncio.wait([call])
            async with asyncio.timeout(5):
                with pytest.raises(UpstreamSilent):
                    await client.fetch(HttpRequest("x", b"{}", (), Deadlines(connect_s=0.1)))

    @big_bodies
    async def test_of_a_call_that_sends_cuts_the_upstream(self, connect):
        async def script(peer: Peer) -> None:
            await peer.head()
            server.requests.append(b"begun")
            await until(call.done)
            await peer.gone()

        async with raw_server(script) as server:
            client = connect(server)
            call = asyncio.create_task(client.fetch(HttpRequest("x", bytes(20_000_000))))
            await until(lambda: server.requests)

            call.cancel()

            await until(lambda: server.hung_up == 1)

    @pytest.mark.parametrize(
        "begun", [b"", HELLO[:20], HELLO[:-2]], ids=["before a head", "in a head", "in a body"]
    )
    async def test_of_a_call_that_waits_cuts_the_upstream(self, connect, begun):
        async with raw_server(holding(begun)) as server:
            client = connect(server)
            call = asyncio.create_task(client.fetch(POST))
            await until(lambda: server.requests)

            call.cancel()

            await until(lambda: server.hung_up == 1)

    async def test_of_a_call_that_opens_a_stream_cuts_the_upstream(self, connect):
        async with raw_server(holding()) as server:
            client = connect(server)
            call = asyncio.create_task(client.open(POST))
            await until(lambda: server.requests)

            call.cancel()

            await until(lambda: server.hung_up == 1)

    # When aiohttp learns of the answer cannot be told.
    async def test_in_the_moment_in_which_a_stream_opens_cuts_the_upstream(self, own):
        async with raw_server(holding(STREAM_HEAD)) as server:
            await self.cancelled_when_answered(server, own(server).open(POST))

            await until(lambda: server.hung_up == 1)

    async def test_in_the_moment_of_the_answer_leaves_the_connection_to_others(self, own):
        async with raw_server(answering(HELLO)) as server:
            client = own(server, connections=1)
            waiting = asyncio.create_task(self.call_after(server, client))
            await self.cancelled_when_answered(server, client.fetch(POST))

            assert (await waiting).body == b"hello"
        assert server.accepted == 1

    async def test_just_before_the_answer_leaves_the_connection_to_others(self, own):
        async def script(peer: Peer) -> None:
            while await peer.request():
                asyncio.get_running_loop().call_soon(call.cancel)
                await peer.send(HELLO)

        async with raw_server(script) as server:
            client = own(server, connections=1)
            call = asyncio.create_task(client.fetch(POST))
            await asyncio.wait([call])

            answer = await client.fetch(POST)

        assert (call.cancelled(), answer.body) == (True, b"hello")
        assert server.accepted == 1

    @staticmethod
    async def cancelled_when_answered(server: RawServer, calling: Coroutine) -> None:
        """Cancel a call between the answer and its caller's learning of it."""
        call = asyncio.create_task(calling)
        loop = asyncio.get_running_loop()

        def look() -> None:
            if server.requests and call._fut_waiter.done():
                call.cancel()
            else:
                loop.call_soon(look)

        look()
        await asyncio.wait([call])
        assert call.cancelled()

    @staticmethod
    async def call_after(server: RawServer, client: HttpClient) -> Answer:
        await until(lambda: server.requests)
        return await client.fetch(POST)

    async def test_leaves_the_client_usable(self, connect):
        gate = Gate()
        async with raw_server(gate.script) as server:
            client = connect(server, connections=1)
            call = asyncio.create_task(client.fetch(POST))
            await until(lambda: gate.came == 1)
            call.cancel()
            other = asyncio.create_task(client.fetch(POST))
            await until(lambda: gate.came == 2)
            await gate.release()
            await gate.release()

            assert (await other).body == b"hello"


class TestOpen:
    @pytest.mark.parametrize(
        "kind", [b"text/event-stream", b"text/event-stream; charset=utf-8", b"Text/Event-Stream"]
    )
    async def test_hands_an_event_stream_over_at_its_head(self, connect, kind):
        head = STREAM_HEAD.replace(b"text/event-stream", kind)
        async with raw_server(holding(head)) as server:
            stream = await opened(connect(server))

            assert (stream.status, stream.content_type) == (200, kind.decode())
            await stream.close()

    @pytest.mark.parametrize(
        "answer",
        [
            HELLO,
            HELLO.replace(b"200 OK", b"500 Oh").replace(b"application/json", b"text/event-stream"),
            HELLO.replace(b"Content-Type: application/json\r\n", b""),
        ],
        ids=["JSON", "an error", "no type"],
    )
    async def test_hands_all_else_over_whole(self, connect, answer):
        async with raw_server(answering(answer)) as server:
            found = await connect(server).open(POST)

        assert isinstance(found, Answer)
        assert (found.status, found.body) == (int(answer[9:12]), b"hello")

    async def test_reads_a_stream_cut_anywhere(self, connect):
        whole = STREAM_HEAD + chunk(b"data: 1\n\n") + chunk(b"data: [DONE]\n\n") + STREAM_END
        pieces = iter(cuts(whole))

        async def script(peer: Peer) -> None:
            while await peer.request():
                await peer.send(*next(pieces))

        async with raw_server(script) as server:
            client = connect(server)
            bodies = [await collect(await opened(client)) for _ in range(len(whole) - 1)]

        assert set(bodies) == {b"data: 1\n\ndata: [DONE]\n\n"}
        assert server.accepted == 1

    async def test_reads_a_stream_that_ends_with_its_connection(self, connect):
        head = b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
        async with raw_server(once(head, b"data: 1\n\n", b"data: 2\n\n")) as server:
            stream = await opened(connect(server))

            assert await collect(stream) == b"data: 1\n\ndata: 2\n\n"

    async def test_yields_what_has_come_meanwhile_in_one_piece(self, connect):
        events = [chunk(b"data: %d\n\n" % number) for number in range(3)]

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(STREAM_HEAD, *events)
            server.requests.append(b"sent")
            await peer.gone()

        async with raw_server(script) as server:
            stream = await opened(connect(server))
            await until(lambda: b"sent" in server.requests)

            assert await read_on(stream) == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
            await stream.close()

    async def test_yields_what_came_before_a_stream_broke(self, connect):
        async with raw_server(once(STREAM_HEAD, chunk(b"data: 1\n\n"))) as server:
            stream = await opened(connect(server))
            first = await read_on(stream)

            with pytest.raises(UpstreamUnreachable):
                await read_on(stream)

        assert first == b"data: 1\n\n"

    async def test_has_no_limit_for_a_stream(self, connect):
        body = [chunk(bytes(30_000))] * 10
        async with raw_server(answering(STREAM_HEAD, *body, STREAM_END)) as server:
            stream = await opened(connect(server))

            assert len(await collect(stream)) == 300_000

    async def test_makes_the_server_wait_for_a_slow_reader(self, connect):
        async with raw_server(flooding) as server:
            stream = await opened(connect(server))
            await until(lambda: server.requests[1:])

            body = await collect(stream)

        sent = int(server.requests[1])
        assert len(body) == sent < FLOOD_BYTES

    async def test_lets_another_call_use_the_connection_after_a_stream(self, connect):
        whole = STREAM_HEAD + chunk(b"data: 1\n\n") + STREAM_END
        async with raw_server(answering(whole)) as server:
            client = connect(server, connections=1)
            for _ in range(3):
                await collect(await opened(client))

        assert server.accepted == 1

    async def test_lets_another_call_use_the_connection_after_a_slow_reader(self, connect):
        body = chunk(bytes(1_000_000))
        async with raw_server(answering(STREAM_HEAD, body, STREAM_END)) as server:
            client = connect(server, connections=1)
            sizes = [len(await collect(await opened(client))) for _ in range(3)]

        assert sizes == [1_000_000] * 3
        assert server.accepted == 1

    # aiohttp holds the connection until its end was read.
    @pytest.mark.parametrize("size", [10, 100_000])
    async def test_frees_the_connection_of_a_stream_that_nobody_read_to_its_end(self, own, size):
        part = chunk(bytes(size))
        async with raw_server(answering(STREAM_HEAD, part, part, part + STREAM_END)) as server:
            client = own(server, connections=1)
            first = await opened(client)
            second = await opened(client)

            sizes = [len(await collect(stream)) for stream in (first, second)]

        assert sizes == [3 * size] * 2
        assert server.accepted == 1


class TestCloseStream:
    async def test_cuts_the_upstream(self, connect):
        async with raw_server(holding(STREAM_HEAD, chunk(b"data: 1\n\n"))) as server:
            stream = await opened(connect(server))
            await read_on(stream)

            await stream.close()

            await until(lambda: server.hung_up == 1)

    async def test_cuts_the_upstream_before_anything_was_read(self, connect):
        async with raw_server(holding(STREAM_HEAD)) as server:
            stream = await opened(connect(server))

            await stream.close()

            await until(lambda: server.hung_up == 1)

    async def test_cuts_the_upstream_while_another_task_waits_for_it(self, connect):
        async with raw_server(holding(STREAM_HEAD)) as server:
            stream = await opened(connect(server))
            reading = asyncio.create_task(read_on(stream))
            await asyncio.sleep(0)

            await stream.close()

            with pytest.raises(UpstreamUnreachable):
                await reading
            await until(lambda: server.hung_up == 1)

    async def test_cuts_a_stream_whose_reader_was_cancelled(self, connect):
        async with raw_server(holding(STREAM_HEAD)) as server:
            stream = await opened(connect(server))
            reading = asyncio.create_task(read_on(stream))
            await asyncio.sleep(0)
            reading.cancel()
            await asyncio.wait([reading])

            await stream.close()

            await until(lambda: server.hung_up == 1)

    async def test_does_nothing_the_second_time(self, connect):
        async with raw_server(holding(STREAM_HEAD)) as server:
            stream = await opened(connect(server))
            await stream.close()

            await stream.close()

            await until(lambda: server.hung_up == 1)

    async def test_leaves_the_connection_to_the_call_that_has_it_now(self, connect):
        gate = Gate()

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(STREAM_HEAD + STREAM_END)
            await gate.script(peer)

        async with raw_server(script) as server:
            client = connect(server, connections=1)
            stream = await opened(client)
            await collect(stream)
            call = asyncio.create_task(client.fetch(POST))
            await until(lambda: gate.came == 1)

            await stream.close()
            await gate.release()

            assert (await call).body == b"hello"


class TestClose:
    async def test_hangs_up_what_is_kept_and_what_is_under_way(self, connect):
        gate = Gate()
        async with raw_server(gate.script) as server:
            client = connect(server)
            calls = [asyncio.create_task(client.fetch(POST)) for _ in range(2)]
            await until(lambda: gate.came == 2)
            await gate.release()
            await asyncio.wait(calls, return_when="FIRST_COMPLETED")

            await client.close()

            await gate.release()
            await until(lambda: server.open == 0)
            answers = await asyncio.gather(*calls, return_exceptions=True)
        assert sorted(type(found).__name__ for found in answers) == [
            "Answer",
            "UpstreamUnreachable",
        ]

    # aiohttp raises an error of its own for a client that is closed.
    async def test_fails_the_calls_that_wait_and_those_that_come_after(self, own):
        async with raw_server(holding()) as server:
            client = own(server, connections=1)
            calls = [asyncio.create_task(client.fetch(POST)) for _ in range(3)]
            await until(lambda: server.requests)

            await client.close()

            faults = await asyncio.gather(*calls, client.fetch(POST), return_exceptions=True)
        assert [type(fault) for fault in faults] == [UpstreamUnreachable] * 4
        assert server.accepted == 1

    # As above.
    async def test_fails_a_call_that_connects(self, own):
        async with raw_server(answering(HELLO)) as server:
            client = own(server)
            call = asyncio.create_task(client.fetch(POST))
            await asyncio.sleep(0)

            await client.close()

            with pytest.raises(UpstreamUnreachable):
                await call
        assert server.requests == []

    # As above.
    async def test_fails_a_call_whose_turn_it_was(self, own):
        async def close_after() -> None:
            await client.fetch(POST)
            await client.close()

        async with raw_server(answering(HELLO)) as server:
            client = own(server, connections=1)
            first = asyncio.create_task(close_after())
            waiting = asyncio.create_task(client.fetch(POST))
            await first

            with pytest.raises(UpstreamUnreachable):
                await waiting
        assert len(server.requests) == 1


class TestAnySplitting:
    @pytest.mark.parametrize("kind", CLIENTS)
    @settings(max_examples=50, deadline=None)
    @given(
        parts=st.lists(st.binary(min_size=1, max_size=40), max_size=6),
        cut_at=st.lists(st.integers(1, 400), max_size=12),
    )
    async def test_of_chunks_gives_the_same_body(self, kind, parts, cut_at):
        whole = CHUNKED_HEAD + b"".join(map(chunk, parts)) + STREAM_END
        places = [0, *sorted({at for at in cut_at if at < len(whole)}), len(whole)]
        pieces = [whole[a:b] for a, b in pairwise(places)]

        async with raw_server(answering(*pieces)) as server, connecting(kind) as connect:
            answer = await connect(server).fetch(POST)

        assert answer.body == b"".join(parts)


class NoTap:
    """A stream that comes from nowhere."""

    def pause(self) -> None:
        raise AssertionError("nothing is to wait")

    resume = break_off = pause


class TestBell:
    """Our own client's alone: when the readers of many streams are woken."""

    async def streams(self, count: int, *times_s: float) -> list[Stream]:
        """Streams on one bell, whose clock shows these times and stays at the last."""
        left = list(times_s)
        bell = Bell(lambda: left.pop(0) if len(left) > 1 else left[0])
        return [Stream(NoTap(), bell) for _ in range(count)]

    async def reading(self, stream: Stream) -> "asyncio.Task[bytes]":
        task = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        return task

    async def test_wakes_at_once_after_a_quiet_while(self):
        (stream,) = await self.streams(1, 0.0, 5.0)

        for event in (b"one", b"two"):
            reader = await self.reading(stream)
            stream.feed(event)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert reader.done()
            assert reader.result() == event

    async def test_hands_on_together_what_comes_right_behind(self):
        first, second, third = await self.streams(3, 0.0)
        readers = [await self.reading(stream) for stream in (first, second, third)]

        for event in (b"1", b"2"):
            for stream in (first, second, third):
                stream.feed(event)
        await readers[0]

        assert not readers[1].done()
        assert not readers[2].done()
        assert await asyncio.gather(*readers) == [b"12", b"12", b"12"]

    async def test_lets_an_end_wait_for_nobody(self):
        first, second = await self.streams(2, 0.0)
        readers = [await self.reading(stream) for stream in (first, second)]
        for stream in (first, second):
            stream.feed(b"x")

        second.end()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

        assert readers[1].done()
        assert await asyncio.gather(*readers) == [b"x", b"x"]

    async def test_rings_for_none_that_has_ended_meanwhile(self):
        first, second = await self.streams(2, 0.0)
        readers = [await self.reading(stream) for stream in (first, second)]
        for stream in (first, second):
            stream.feed(b"x")
        await readers[0]
        readers[1].cancel()

        later = await self.reading(first)
        first.feed(b"y")

        assert await later == b"y"
