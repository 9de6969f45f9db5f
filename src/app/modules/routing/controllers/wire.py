"""The hot path of ``/v1``: raw ASGI, bytes in and bytes out, in a written order.

Who is asking, what is asked, where it goes, the call, the usage row, the last byte. The usage row
is in the journal before the last byte leaves, so a client that has a whole answer is on the bill
exactly once.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final

from litestar.exceptions import MethodNotAllowedException
from litestar.status_codes import HTTP_500_INTERNAL_SERVER_ERROR
from litestar.types import Receive, Scope, Send

from app.kernel import log, problems
from app.kernel.db import uuid7
from app.kernel.errors import AppError, BadUpstream, Invalid, Unavailable
from app.modules.auth.api import Authenticator, Principal, bearer_token
from app.modules.billing.api import Meter, Outcome, Usage
from app.modules.routing.controllers.tally import Tally
from app.modules.routing.domain import (
    AnswerPart,
    StreamTail,
    Surface,
    cost_nanos,
    read_answer,
    read_envelope,
    with_model,
)
from app.modules.routing.ports import Answer, AnswerStream, Route
from app.modules.routing.schemas import openai_error
from app.modules.routing.service import Registry

JSON_TYPE: Final = b"application/json"
STREAM_HEADERS: Final = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
CLIENT_GONE = 499
WATCH_AFTER_S = 0.02


class UpstreamRefusedUs(BadUpstream):
    """The upstream does not accept the gateway's own key. Not the caller's fault."""

    title = "Upstream credentials refused"


class UpstreamNonsense(BadUpstream):
    """The upstream's answer is not what its contract says."""

    title = "Upstream answered nonsense"


class StreamBroken(BadUpstream):
    """The upstream ended its stream before it was complete."""

    title = "Upstream stream broken"


class Wire:
    """The handlers of ``/v1`` that call a model."""

    def __init__(self, authenticator: Authenticator, registry: Registry, meter: Meter) -> None:
        self._authenticator = authenticator
        self._registry = registry
        self._meter = meter
        self._tally = Tally()

    def handler(self, surface: Surface) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
        """Make the ASGI handler of one surface."""

        async def handle(scope: Scope, receive: Receive, send: Send) -> None:
            await self._handle(surface, scope, receive, send)

        return handle

    async def _handle(self, surface: Surface, scope: Any, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            raise MethodNotAllowedException(headers={"allow": "POST"})
        token = bearer_token(scope["headers"])
        principal = self._authenticator.recall(token)
        if principal is None:
            principal = await self._authenticator.authenticate(token)
        principal.require("inference")
        body = await _read_body(receive)
        envelope = read_envelope(body)
        route = await self._route(envelope.model, principal)
        if route.renames:
            body = with_model(body, route.upstream_model)
        call = Call(self, surface, route, principal, is_streamed=bool(envelope.stream))
        with ClientWatch(receive) as watch:
            try:
                await call.run(body, send)
            except asyncio.CancelledError:
                call.settle("abandoned", CLIENT_GONE)
                raise
        if watch.is_gone and not call.is_settled:
            call.settle("abandoned", CLIENT_GONE)

    async def _route(self, model: str, principal: Principal) -> Route:
        route = self._registry.find(model) or await self._registry.locate(model)
        if not principal.may_use(route.name):
            raise self._registry.unknown(model)
        return route

    def keep(self, usage: Usage) -> None:
        """Write the usage row and count it."""
        self._meter.record(usage)
        self._tally.count(usage)


class Call:
    """One model call, from the first byte sent to the upstream to its usage row."""

    __slots__ = (
        "_first_byte_ms",
        "_principal",
        "_route",
        "_started",
        "_started_at_ms",
        "_surface",
        "_wire",
        "id",
        "is_settled",
        "is_streamed",
    )

    def __init__(
        self,
        wire: Wire,
        surface: Surface,
        route: Route,
        principal: Principal,
        *,
        is_streamed: bool,
    ) -> None:
        self._wire = wire
        self._surface = surface
        self._route = route
        self._principal = principal
        self._started = time.perf_counter()
        self._started_at_ms = time.time_ns() // 1_000_000
        self._first_byte_ms: int | None = None
        self.id = uuid7()
        self.is_streamed = is_streamed
        self.is_settled = False

    async def run(self, body: bytes, send: Send) -> None:
        """Ask the upstream and answer the client; every way out has settled the call."""
        upstream = self._route.upstream
        try:
            if not self.is_streamed:
                await self._answer(await upstream.post(self._surface, body), send)
                return
            found = await upstream.stream(self._surface, body)
            if isinstance(found, Answer):
                await self._answer(found, send)
            else:
                await self._pass_on(found, send)
        except AppError as error:
            self.settle("failed", problems.of(error).status)
            raise
        except Exception:
            self.settle("failed", HTTP_500_INTERNAL_SERVER_ERROR)
            raise

    async def _answer(self, answer: Answer, send: Send) -> None:
        """Pass a whole answer on, unless it would mislead the client."""
        self._first_byte_ms = self._elapsed_ms()
        part = read_answer(answer.body)
        if answer.status != 200:
            answer = self._explained(answer, part)
            self.settle("failed", answer.status)
        elif part is None:
            text = f"{self._route.upstream_name} answered 200 with a body that is no JSON object."
            raise UpstreamNonsense(text)
        else:
            self.settle("failed" if part.has_error else "completed", 200, part)
        headers = [
            (b"content-type", JSON_TYPE if part else answer.content_type.encode("latin-1")),
            (b"content-length", str(len(answer.body)).encode()),
            (b"x-call-id", str(self.id).encode()),
        ]
        if answer.retry_after:
            headers.append((b"retry-after", answer.retry_after.encode("latin-1")))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body, "more_body": False})

    def _explained(self, answer: Answer, part: AnswerPart | None) -> Answer:
        """Keep the caller's own errors as they are; say what is wrong about all others."""
        upstream = self._route.upstream_name
        if answer.status in {401, 403}:
            raise UpstreamRefusedUs(f"{upstream} does not accept this gateway's key for it.")
        if answer.status < 400:
            raise UpstreamNonsense(f"{upstream} answered {answer.status}, which is no answer.")
        if part is not None and part.has_error:
            return answer
        problem = problems.Problem(
            "upstream-failed",
            "Upstream failed",
            answer.status,
            f"{upstream} answered {answer.status} without saying why.",
            log.request_id.get(),
        )
        return Answer(answer.status, "", openai_error(problem).body, answer.retry_after)

    async def _pass_on(self, stream: AnswerStream, send: Send) -> None:
        """Pass events on as they come; the one that completes the stream after the usage row."""
        headers = [
            (b"content-type", stream.content_type.encode("latin-1")),
            (b"x-call-id", str(self.id).encode()),
            *STREAM_HEADERS,
        ]
        await send({"type": "http.response.start", "status": stream.status, "headers": headers})
        tail = StreamTail()
        try:
            async for chunk in stream.chunks:
                if self._first_byte_ms is None:
                    self._first_byte_ms = self._elapsed_ms()
                if tail.feed(chunk):
                    self._settle_stream(tail)
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            if not self.is_settled:
                await self._break_off(tail, None, send)
        except AppError as error:
            await self._break_off(tail, error, send)
        finally:
            await stream.close()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _break_off(self, tail: StreamTail, error: AppError | None, send: Send) -> None:
        """End a stream that has no ``[DONE]``; the client learns why in the stream itself.

        Its status line has long been sent. An upstream that has told an error has told it all.
        """
        if self.is_settled:
            return
        part = tail.read()
        try:
            self.settle("failed", 200, part)
        except Unavailable as unkept:
            error = unkept
        if error is not None or not part.has_error:
            ended = f"{self._route.upstream_name} ended its stream before it was complete."
            problem = problems.of(error or StreamBroken(ended))
            event = b"data: " + openai_error(problem).body + b"\n\n"
            await send({"type": "http.response.body", "body": event, "more_body": True})

    def _settle_stream(self, tail: StreamTail) -> None:
        part = tail.read()
        self.settle("failed" if part.has_error else "completed", 200, part)

    def settle(self, outcome: Outcome, status: int, part: AnswerPart | None = None) -> None:
        """Write the usage row; the first call decides."""
        if self.is_settled:
            return
        route, tokens = self._route, part.usage if part else None
        self._wire.keep(
            Usage(
                id=self.id,
                user_id=self._principal.user_id,
                credential_id=self._principal.credential_id,
                request_id=log.request_id.get(),
                model=route.name,
                upstream=route.upstream_name,
                surface=self._surface,
                is_streamed=self.is_streamed,
                outcome=outcome,
                status=status,
                started_at_ms=self._started_at_ms,
                duration_ms=self._elapsed_ms(),
                first_byte_ms=self._first_byte_ms,
                input_tokens=tokens.prompt_tokens if tokens else None,
                output_tokens=tokens.completion_tokens if tokens else None,
                cached_tokens=tokens.cached if tokens else None,
                reasoning_tokens=tokens.reasoning if tokens else None,
                price_version=route.price.version if route.price else None,
                cost_nanos=cost_nanos(tokens, route.price),
                currency=route.price.currency if route.price else None,
            )
        )
        self.is_settled = True

    def _elapsed_ms(self) -> int:
        return int((time.perf_counter() - self._started) * 1000)


class ClientWatch:
    """Cancels the body of its ``with`` when the client hangs up, and ends the cancellation here.

    No server tells a handler that is not listening, and listening costs a task. A call that ends
    within 20 ms is spared it: there would be nothing left to cut.
    """

    __slots__ = ("_me", "_receive", "_start", "_watcher", "is_gone")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._me: Any = asyncio.current_task()
        self._watcher: asyncio.Task[None] | None = None
        self.is_gone = False

    def __enter__(self) -> "ClientWatch":
        loop = asyncio.get_running_loop()
        self._start = loop.call_later(WATCH_AFTER_S, self._watch)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> bool:
        self._start.cancel()
        if self._watcher is not None:
            self._watcher.remove_done_callback(self._on_gone)
            self._watcher.cancel()
        if self.is_gone and kind is asyncio.CancelledError:
            self._me.uncancel()
            return True
        return False

    def _watch(self) -> None:
        self._watcher = asyncio.create_task(_until_gone(self._receive))
        self._watcher.add_done_callback(self._on_gone)

    def _on_gone(self, watcher: "asyncio.Task[None]") -> None:
        if not watcher.cancelled():
            self.is_gone = True
            self._me.cancel()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


async def _read_body(receive: Receive) -> bytes:
    """Read the whole body; the door has put the limit on it."""
    message: Any = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        return body
    parts = [body]
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Invalid("The body ended before it was complete.")
        parts.append(message.get("body", b""))
    return b"".join(parts)
