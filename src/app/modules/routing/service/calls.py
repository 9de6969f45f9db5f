"""One model call: from the moment it is admitted to its usage row.

A call ends once: ``completed``, ``failed`` or ``abandoned``. The row is in the journal before the
last byte leaves, so a client that has a whole answer is on the bill exactly once.
"""

import time
from collections.abc import Callable
from typing import Final
from uuid import UUID

import msgspec

from app.kernel import log
from app.kernel.errors import AppError, Unavailable
from app.modules.billing.api import Outcome, Usage
from app.modules.routing.domain.answers import Tokens
from app.modules.routing.domain.envelope import (
    ROUTING_MEMBERS,
    asking_for_usage,
    renamed,
    with_model,
    without,
)
from app.modules.routing.domain.faults import StreamBroken, UpstreamNonsense, UpstreamRefusedUs
from app.modules.routing.domain.prices import Price, cost_nanos
from app.modules.routing.domain.streams import BYTES_A_TOKEN, error_event, output_estimate
from app.modules.routing.ports import Answer, Ask, Source, Target
from app.modules.routing.service.dispatch import Dispatcher, Opened, Progress, Trip, Whole
from app.modules.routing.service.flow import Flow
from app.modules.routing.service.orders import Order
from app.modules.routing.service.plans import Books, Plan, Reply

OWN_KEY: Final = Price("own-key", "USD", 0, 0)
CACHED: Final = Price("cached", "USD", 0, 0)
STREAMED_SURFACES: Final = frozenset({"chat/completions", "completions"})
STREAM_OPTIONS: Final = frozenset({"stream_options"})
CHAT_LIMIT: Final = "max_tokens"
JSON_TYPE: Final = "application/json"
CLIENT_GONE: Final = 499


class Call:
    """Runs one order by its plan."""

    __slots__ = (
        "_books",
        "_first_byte_ms",
        "_is_native",
        "_opened",
        "_plan",
        "_started",
        "_started_at_ms",
        "id",
        "is_complete",
        "is_left",
        "is_settled",
        "order",
        "progress",
    )

    def __init__(self, call_id: UUID, order: Order, plan: Plan, books: Books) -> None:
        self.id = call_id
        self.order = order
        self.progress = Progress()
        self.is_settled = False
        self.is_complete = False
        self.is_left = False
        self._plan = plan
        self._books = books
        self._is_native = True
        self._opened: Opened | None = None
        self._started = order.started_s or time.perf_counter()
        self._started_at_ms = time.time_ns() // 1_000_000
        self._first_byte_ms: int | None = None

    @property
    def target(self) -> Target:
        """Where the call went last, or would have gone first."""
        return self.progress.target or self._plan.targets[0]

    @property
    def overhead_s(self) -> float:
        """The gateway's own share of the time so far."""
        return time.perf_counter() - self._started - self.progress.upstream_s

    async def run(self, dispatcher: Dispatcher) -> Reply:
        """Get the answer; every way out but a stream has settled the call."""
        order = self.order
        trip = Trip(
            self._plan.targets,
            self._ask,
            order.is_streamed,
            self._plan.route.deadline_s,
            strips_usage=self._strips_usage,
            own_key=order.hints.own_key,
            request=order.body,
        )
        try:
            found = await dispatcher.run(trip, self.progress)
            self._first_byte_ms = self._elapsed_ms()
            if found.__class__ is Whole:
                return await self._answered(found)
            return self._opened_reply(found)  # type: ignore[arg-type]  # the line above
        except AppError as error:
            self.settle("failed", self._books.describe(error).status)
            raise
        except Exception:
            self.settle("failed", 500)
            raise

    def settle_known(self) -> None:
        """The answer was known: nothing was used."""
        self._settle("completed", 200, Tokens(0, 0), price=CACHED)

    def leave(self) -> None:
        """The client has gone, and nobody reads on: settle by what has passed."""
        self.is_left = True
        if self._opened is None:
            tokens = Tokens(self._input_estimate if self.progress.is_sent else 0, 0)
            self.settle("abandoned", CLIENT_GONE, tokens, is_estimated=self.progress.is_sent)
            return
        reader = self._opened.reader
        told = reader.tokens or Tokens()
        if told.output is not None and reader.counts_once:
            self.settle("abandoned", CLIENT_GONE, told)
            return
        tokens = msgspec.structs.replace(
            told,
            input=self._input_estimate if told.input is None else told.input,
            output=max(reader.output_estimate, told.output or 0),
        )
        self.settle("abandoned", CLIENT_GONE, tokens, is_estimated=True)

    def settle(
        self,
        outcome: Outcome,
        status: int,
        tokens: Tokens | None = None,
        *,
        is_estimated: bool = False,
    ) -> None:
        """Write the usage row; the first call decides."""
        price = OWN_KEY if self.order.hints.own_key else self.target.price
        self._settle(outcome, status, tokens, price=price, is_estimated=is_estimated)

    def _settle(
        self,
        outcome: Outcome,
        status: int,
        tokens: Tokens | None,
        *,
        price: Price | None,
        is_estimated: bool = False,
    ) -> None:
        if self.is_settled:
            return
        order, target = self.order, self.target
        told = tokens or Tokens()
        self._books.keep(
            Usage(
                id=self.id,
                user_id=order.principal.user_id,
                credential_id=order.principal.credential_id,
                request_id=log.request_id.get(),
                model=self._plan.route.name,
                upstream=target.source.name,
                upstream_model=target.model,
                surface=order.surface,
                is_streamed=order.is_streamed,
                outcome="abandoned" if self.is_left else outcome,
                status=CLIENT_GONE if self.is_left else status,
                started_at_ms=self._started_at_ms,
                duration_ms=self._elapsed_ms(),
                first_byte_ms=self._first_byte_ms,
                input_tokens=told.input,
                output_tokens=told.output,
                cached_tokens=told.cached,
                cache_write_tokens=told.cache_write,
                reasoning_tokens=told.reasoning,
                audio_input_tokens=told.audio_input,
                audio_output_tokens=told.audio_output,
                is_estimated=is_estimated,
                is_cached=price is CACHED,
                is_own_key=bool(order.hints.own_key),
                attempts=self.progress.attempts,
                price_version=price.version if price else None,
                cost_nanos=cost_nanos(tokens, price),
                currency=price.currency if price else None,
            )
        )
        self.is_settled = True
        self.is_complete = outcome == "completed" and not self.is_left

    def _ask(self, target: Target, key: str) -> Ask:
        """Write the request as this target is to have it."""
        order, plan = self.order, self._plan
        dialect = plan.dialect
        has_surface = order.surface in target.upstream.surfaces and not plan.translates_all
        self._is_native = dialect is None or has_surface
        body = order.body if dialect is None or has_surface else dialect.chat_body
        if self._is_native and order.envelope.has_routing and not target.source.takes_routing:
            body = without(body, ROUTING_MEMBERS)
        if not self._is_native:
            body = _in_the_words_of(target.source, body)
        if target.model != order.envelope.model:
            body = with_model(body, target.model)
        if self._strips_usage and target.source.tells_usage and self._is_native:
            body = asking_for_usage(body, order.envelope)
        surface = order.surface if self._is_native else "chat/completions"
        return Ask(
            surface,
            target.model,
            body,
            key,
            bool(order.hints.own_key),
            plan.affinity if target.source.is_pool else "",
            order.hints.beta,
            target.deadlines,
            order.trace,
        )

    @property
    def _strips_usage(self) -> bool:
        """Whether we ask for the usage at a stream's end, which the caller has not asked for."""
        order = self.order
        is_chat = order.surface in STREAMED_SURFACES
        return is_chat and order.is_streamed and not order.envelope.wants_usage

    async def _answered(self, found: Whole) -> Reply:
        """Turn a whole answer into the caller's, unless it would mislead them."""
        answer, part = found.answer, found.part
        if answer.status != 200:
            answer = self._explained(answer, has_error=part is not None and bool(part.error))
            self.settle("failed", answer.status)
            return self._reply(answer)
        assert part is not None  # noqa: S101 - the dispatcher let no other pass with 200
        tokens, is_estimated = part.tokens, False
        if tokens is None and not part.error:
            is_estimated = True
            tokens = Tokens(self._input_estimate, output_estimate(answer.body))
        outcome: Outcome = "failed" if part.error else "completed"
        self.settle(outcome, 200, tokens, is_estimated=is_estimated)
        reply = self._reply(answer)
        if self._plan.dialect is not None and not self._is_native:
            await self._plan.dialect.keep()
        return reply

    def _reply(self, answer: Answer) -> Reply:
        body, dialect = answer.body, self._plan.dialect
        if dialect is not None and not self._is_native:
            body = (
                dialect.answer(body) if answer.status == 200 else dialect.error(answer.status, body)
            )
        content_type = answer.content_type or JSON_TYPE
        return Reply(answer.status, content_type, body, retry_after=answer.retry_after)

    def _explained(self, answer: Answer, *, has_error: bool) -> Answer:
        """Keep the caller's own errors as they are; say what is wrong about all others."""
        upstream = self.target.source.name
        if answer.status in {401, 403} and not self.order.hints.own_key:
            raise UpstreamRefusedUs(f"{upstream} does not accept this gateway's key for it.")
        if answer.status < 400:
            raise UpstreamNonsense(f"{upstream} answered {answer.status}, which is no answer.")
        if has_error:
            return msgspec.structs.replace(answer, content_type=JSON_TYPE)
        text = f"{upstream} answered {answer.status} without saying why."
        error = {"message": text, "type": "server_error", "param": None, "code": "upstream_failed"}
        body = msgspec.json.encode({"error": error | {"request_id": log.request_id.get()}})
        return Answer(answer.status, JSON_TYPE, body, answer.retry_after)

    def _opened_reply(self, opened: Opened) -> Reply:
        self._opened = opened
        return Reply(200, opened.stream.content_type, pieces=Flow(self, opened, self._speaker()))

    def _speaker(self) -> Callable[[bytes], bytes]:
        dialect = self._plan.dialect
        if dialect is None or self._is_native:
            return _as_it_is
        return dialect.feed

    async def end(self, opened: Opened) -> None:
        """The stream is complete: settle it, before its last event leaves."""
        if self.is_settled:
            return
        reader = opened.reader
        tokens = reader.tokens
        if tokens is None and not reader.error:
            estimate = Tokens(self._input_estimate, reader.output_estimate)
            self.settle("completed", 200, estimate, is_estimated=True)
        else:
            self.settle("failed" if reader.error else "completed", 200, tokens)
        if self._plan.dialect is not None and not self._is_native:
            await self._plan.dialect.keep()

    def broken_off(self, opened: Opened, error: AppError | None) -> list[bytes]:
        """End a stream that has no end; the client learns why in the stream itself.

        Its status line has long been sent. An upstream that has told an error has told it all.
        """
        if self.is_settled:
            return []
        reader = opened.reader
        try:
            self.settle("failed", 200, reader.tokens)
        except Unavailable as unkept:
            error = unkept
        if error is None and reader.error:
            return []
        ended = f"{opened.target.source.name} ended its stream before it was complete."
        failure = self._books.describe(error or StreamBroken(ended))
        surface = self.order.surface if self._is_native else "chat/completions"
        return [error_event(surface, failure.text, failure.code, log.request_id.get())]

    @property
    def _input_estimate(self) -> int:
        return len(self.order.body) // BYTES_A_TOKEN

    def _elapsed_ms(self) -> int:
        return int((time.perf_counter() - self._started) * 1000)


def _in_the_words_of(source: Source, body: bytes) -> bytes:
    """Write a translated request as one server among those that speak OpenAI's chat wants it."""
    if not source.tells_usage:
        body = without(body, STREAM_OPTIONS)
    if source.limit_member != CHAT_LIMIT:
        body = renamed(body, CHAT_LIMIT, source.limit_member)
    return body


def _as_it_is(piece: bytes) -> bytes:
    return piece
