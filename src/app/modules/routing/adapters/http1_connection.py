"""One HTTP/1.1 connection: a request goes out, its answer comes back, then it is free again.

httptools parses. What is done with what it finds is here, in callbacks and without a task: a
plain call costs one write, one read and one future.
"""

import asyncio
from collections.abc import Callable
from math import inf
from typing import Final

import msgspec
from httptools import HttpParserError, HttpResponseParser

from app.kernel.errors import AppError
from app.modules.routing.adapters.http1_stream import Bell, Stream
from app.modules.routing.domain.faults import AnswerTooLarge, UpstreamSilent, UpstreamUnreachable
from app.modules.routing.ports import Answer, AnswerStream, Deadlines

EVENT_STREAM: Final = b"text/event-stream"
# A body above this goes out by itself, so that it is not copied behind its head.
LARGE_BYTES: Final = 65_536
# What may arrive, to within one read, without a byte of a body in it: heads, trailers, extensions.
QUIET_LIMIT_BYTES: Final = 65_536
# Timers ring up to a millisecond early.
EARLY_S: Final = 0.001

Reply = asyncio.Future[Answer | AnswerStream]


class Server(msgspec.Struct, frozen=True):
    """Whom a connection leads to, as its faults name it, and what is granted to it."""

    name: str
    answer_limit_bytes: int
    keep_s: float

    def silent(self, after_s: float) -> UpstreamSilent:
        return UpstreamSilent(f"{self.name} did not answer within {after_s:g} s.")

    def unreachable(self, error: BaseException) -> UpstreamUnreachable:
        """Name the kind of failure, not its text, which may hold an address."""
        return UpstreamUnreachable(
            f"{self.name} cannot be reached or broke off ({type(error).__name__})."
        )

    def too_large(self) -> AnswerTooLarge:
        return AnswerTooLarge(f"{self.name} sent more than {self.answer_limit_bytes} bytes.")


class Connection(asyncio.Protocol):
    """Serves one call at a time. ``on_free`` and ``on_lost`` tell its pool what became of it.

    Its only timer is moved when it would ring too late, and looks at ``_due`` when it rings: a
    call on a busy connection costs no timer at all.
    """

    _loop: asyncio.AbstractEventLoop
    _transport: asyncio.Transport
    _deadlines: Deadlines

    def __init__(
        self,
        server: Server,
        bell: Bell,
        on_free: Callable[["Connection"], None],
        on_lost: Callable[["Connection"], None],
    ) -> None:
        self.calls = 0
        self._server = server
        self._bell = bell
        self._on_free = on_free
        self._on_lost = on_lost
        self._parser = HttpResponseParser(self)
        self._answer: Reply | None = None
        self._stream: Stream | None = None
        self._parts: list[bytes] = []
        self._content_type = self._retry_after = b""
        self._status = self._size = self._quiet_bytes = 0
        self._may_stream = self._is_framed = self._is_complete = False
        self._is_kept = self._is_lost = False
        self._timer: asyncio.TimerHandle | None = None
        self._due = self._rings_at = inf

    @property
    def is_open(self) -> bool:
        return not self._is_lost and not self._transport.is_closing()

    @property
    def is_stale(self) -> bool:
        """Whether it was kept, and lost before one byte of an answer to its last call."""
        return self.calls > 1 and self._status == self._quiet_bytes == 0

    def ask(self, head: bytes, body: bytes, deadlines: Deadlines, *, may_stream: bool) -> Reply:
        """Send a request; ``head`` lacks its method and its length.

        The future is done when the answer is whole, or at the head of an event stream if that
        may be. It fails with an upstream's fault and nothing else.
        """
        self.calls += 1
        self._deadlines = deadlines
        self._may_stream = may_stream
        self._forget_head()
        self._status = self._size = self._quiet_bytes = 0
        self._is_complete = False
        self._answer = answer = self._loop.create_future()
        self._expect(deadlines.first_byte_s)
        if not body:
            self._transport.write(b"GET%b\r\n" % head)
        elif len(body) <= LARGE_BYTES:
            self._transport.write(b"POST%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))
        else:
            self._transport.write(b"POST%bcontent-length: %d\r\n\r\n" % (head, len(body)))
            self._transport.write(body)
        return answer

    def give_up(self, answer: Reply) -> None:
        """Close at once, unless ``answer`` was complete and this serves another call by now."""
        if self._answer is answer:
            self.break_off()

    def break_off(self) -> None:
        """Close at once; whoever waits for an answer learns it."""
        self._fail(self._server.unreachable(ConnectionAbortedError()))

    def pause(self) -> None:
        self._transport.pause_reading()

    def resume(self) -> None:
        """Read on. The server was not silent meanwhile, it was made to wait."""
        self._expect(self._deadlines.idle_s)
        self._transport.resume_reading()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # asyncio and uvloop have set TCP_NODELAY already.
        self._transport = transport  # type: ignore[assignment]  # TCP's is one of both directions
        self._loop = asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        if self._answer is None:
            # Nobody has asked: it must not become the answer to the next call.
            self._abort()
            return
        self._quiet_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:
            self._stumble(error)
            return
        if self._is_complete:
            self._finish()
        elif self._quiet_bytes > QUIET_LIMIT_BYTES:
            self._fail(self._server.unreachable(HttpParserError()))
        elif self._status:
            self._expect(self._deadlines.idle_s)

    def eof_received(self) -> None:
        """Take the end of the connection for the end of an answer that has no other."""
        if self._answer is not None and self._status and not self._is_framed:
            self._is_kept = False
            self._finish()
        else:
            self.connection_lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(self._server.unreachable(exc or EOFError()))

    def resume_writing(self) -> None:
        """Count the wait for an answer from the end of a large request, which had as long."""
        if self._answer is not None and not self._status:
            self._expect(self._deadlines.first_byte_s)

    # What the parser calls, within ``data_received``.

    def on_message_begin(self) -> None:
        if self._is_complete:
            raise HttpParserError("more than one answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._status:
            # A trailer, which says nothing about the head.
            return
        kind = name.lower()
        if kind == b"content-type":
            self._content_type = self._content_type or value.strip()
        elif kind == b"content-length":
            self._is_framed = True
        elif kind == b"transfer-encoding":
            self._is_framed = value.rpartition(b",")[2].strip().lower() == b"chunked"
        elif kind == b"retry-after":
            self._retry_after = self._retry_after or value.strip()

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 100 or status == 101:
            raise HttpParserError("a status that was not asked for")
        if status < 200:
            # Word that the answer is still to come, with a head of its own.
            self._forget_head()
            return
        self._status = status
        if self._may_stream and status == 200 and self._is_event_stream():
            self._open_stream()

    def on_body(self, part: bytes) -> None:
        self._quiet_bytes = 0
        if self._stream is not None:
            self._stream.feed(part)
            return
        self._size += len(part)
        if self._size > self._server.answer_limit_bytes:
            raise self._server.too_large()
        self._parts.append(part)

    def on_message_complete(self) -> None:
        if self._status:
            self._is_complete = True
            self._is_kept = self._parser.should_keep_alive()

    def _forget_head(self) -> None:
        self._content_type = self._retry_after = b""
        self._is_framed = False

    def _is_event_stream(self) -> bool:
        return self._content_type.partition(b";")[0].strip().lower() == EVENT_STREAM

    def _open_stream(self) -> None:
        answer = self._answer
        # A caller that has gone in this very moment is about to give up.
        if answer is not None and not answer.done():
            self._stream = stream = Stream(self, self._bell)
            kind = self._content_type.decode("latin-1")
            answer.set_result(AnswerStream(200, kind, stream, stream.close))

    def _finish(self) -> None:
        """Hand over what is complete, and be free for the next call if that is possible."""
        answer, self._answer = self._answer, None
        stream, self._stream = self._stream, None
        parts, self._parts = self._parts, []
        if stream is not None:
            if stream.is_full:
                self._transport.resume_reading()
            stream.end()
        elif answer is not None and not answer.done():
            answer.set_result(
                Answer(
                    self._status,
                    self._content_type.decode("latin-1"),
                    parts[0] if len(parts) == 1 else b"".join(parts),
                    self._retry_after.decode("latin-1"),
                )
            )
        # A server that answers early may leave the rest of the request unread.
        if self._is_kept and not self._transport.get_write_buffer_size():
            self._expect(self._server.keep_s)
            self._on_free(self)
        else:
            self._abort()

    def _stumble(self, error: Exception) -> None:
        """End after bytes that are no HTTP, or that a callback refused."""
        if self._is_complete:
            # They came after the answer, which stands.
            self._is_kept = False
            self._finish()
            return
        refusal = error.__context__
        fault = refusal if isinstance(refusal, AppError) else self._server.unreachable(error)
        self._fail(fault)

    def _fail(self, fault: AppError) -> None:
        answer, self._answer = self._answer, None
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.fail(fault)
        elif answer is not None and not answer.done():
            answer.set_exception(fault)
        self._abort()

    def _abort(self) -> None:
        if self._is_lost:
            return
        self._is_lost = True
        if self._timer is not None:
            self._timer.cancel()
        self._parts = []
        self._transport.abort()
        self._on_lost(self)

    def _expect(self, within_s: float) -> None:
        """Put off what is due: something has to happen within the given time from now."""
        self._due = due = self._loop.time() + within_s
        if due < self._rings_at:
            self._set_timer(within_s)

    def _set_timer(self, within_s: float) -> None:
        """Ring every ``keep_s`` at least, so that keeping the connection needs no earlier timer."""
        if self._timer is not None:
            self._timer.cancel()
        within_s = min(within_s, self._server.keep_s)
        self._rings_at = self._loop.time() + within_s
        self._timer = self._loop.call_later(within_s, self._ring)

    def _ring(self) -> None:
        self._timer, self._rings_at = None, inf
        left_s = self._due - self._loop.time()
        if left_s > EARLY_S:
            self._set_timer(left_s)
        elif self._answer is None:
            self._abort()
        elif self._stream is not None and self._stream.is_full:
            self._expect(self._deadlines.idle_s)
        else:
            deadlines = self._deadlines
            self._fail(
                self._server.silent(deadlines.idle_s if self._status else deadlines.first_byte_s)
            )
