"""The gateway: from an order to an answer, in a written order.

Where it may go, whether the answer is known already, whether the caller may spend it, the call.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import suppress
from typing import Final, Literal
from uuid import UUID

import msgspec

from app.kernel.db import uuid7
from app.kernel.errors import AppError
from app.modules.billing.api import Remaining
from app.modules.routing.domain.envelope import Surface
from app.modules.routing.domain.unmappable import Unmappable
from app.modules.routing.service.answers import AnswerCache
from app.modules.routing.service.calls import Call
from app.modules.routing.service.choosing import Choice, Chooser, affinity
from app.modules.routing.service.dialects import Translate
from app.modules.routing.service.dispatch import Dispatcher
from app.modules.routing.service.ledger import Ledger
from app.modules.routing.service.orders import Order
from app.modules.routing.service.plans import Plan, Reply

CacheState = Literal["hit", "miss", "bypass"]
DRAIN_S: Final = 5.0


class Served(msgspec.Struct, frozen=True):
    """An answer on its way to the caller, and the call behind it."""

    call: Call
    reply: Reply
    cache: CacheState
    remaining: Remaining | None = None


class Gateway:
    """Serves orders. ``translate`` has the surfaces that not every upstream has itself."""

    def __init__(
        self,
        chooser: Chooser,
        dispatcher: Dispatcher,
        ledger: Ledger,
        answers: AnswerCache,
        translate: Mapping[Surface, Translate],
    ) -> None:
        self._chooser = chooser
        self._dispatcher = dispatcher
        self._ledger = ledger
        self._answers = answers
        self._translate = translate
        self._left: set[asyncio.Task[None]] = set()

    async def serve(self, order: Order) -> Served:
        """Answer an order; whatever happens afterwards, its usage row is written once.

        Cancelling this, or closing the reply's pieces, is the caller's leaving.
        """
        call_id = uuid7()
        choice = await self._chooser.choose(order)
        plan = await self._plan(order, call_id, choice)
        call = Call(call_id, order, plan, self._ledger)
        ttl_s = self._chooser.cache_ttl_s(order)
        if ttl_s and (known := await self._answers.find(order)) is not None:
            call.settle_known()
            return Served(call, known, "hit")
        await self._ledger.admit(call, plan.targets)
        try:
            reply = await self._run(call)
        except BaseException:
            if not call.is_settled:
                self._ledger.withdraw(call)
            raise
        if choice.pick is not None:
            reply.headers = choice.pick.headers
        left = self._ledger.remaining(order.principal)
        if not ttl_s:
            return Served(call, reply, "bypass", left)
        return Served(call, await self._remembered(call, reply, ttl_s), "miss", left)

    async def close(self) -> None:
        """Wait for the calls that are read to their end for nobody, not for long."""
        if self._left:
            _, pending = await asyncio.wait(self._left, timeout=DRAIN_S)
            for task in pending:
                task.cancel()

    async def _plan(self, order: Order, call_id: UUID, choice: Choice) -> Plan:
        targets = choice.targets
        mark = affinity(order) if any(target.source.is_pool for target in targets) else ""
        translate = self._translate.get(order.surface)
        if translate is None:
            return Plan(choice.route, targets, affinity=mark)
        native = tuple(t for t in targets if order.surface in t.upstream.surfaces)
        is_ours = order.envelope.goes_on_with_ours
        if len(native) == len(targets) and not is_ours:
            return Plan(choice.route, targets, affinity=mark)
        try:
            dialect = await translate(order, call_id)
        except Unmappable:
            if not native or is_ours:
                raise
            return Plan(choice.route, native, affinity=mark)
        return Plan(choice.route, targets, dialect, mark, translates_all=is_ours)

    async def _run(self, call: Call) -> Reply:
        if call.target.source.reads_to_end:
            return await self._run_to_end(call)
        try:
            return await call.run(self._dispatcher)
        except asyncio.CancelledError:
            call.leave()
            raise

    async def _run_to_end(self, call: Call) -> Reply:
        """Run a call in a task of its own, which goes on when the caller has left."""
        running = asyncio.create_task(call.run(self._dispatcher))
        try:
            reply = await asyncio.shield(running)
        except asyncio.CancelledError:
            call.is_left = True
            self._go_on(_finish(running))
            raise
        if reply.pieces is not None:
            reply.pieces = self._to_end(call, reply.pieces)
        return reply

    async def _to_end(self, call: Call, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Hand pieces on; when the reader stops, the rest is read for nobody."""
        step: asyncio.Task[bytes] | None = None
        try:
            while True:
                step = asyncio.ensure_future(anext(pieces))
                piece = await asyncio.shield(step)
                step = None
                yield piece
        except StopAsyncIteration:
            return
        except (asyncio.CancelledError, GeneratorExit):
            call.is_left = True
            self._go_on(_drain(step, pieces))
            raise

    def _go_on(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._left.add(task)
        task.add_done_callback(self._left.discard)

    async def _remembered(self, call: Call, reply: Reply, ttl_s: int) -> Reply:
        """Keep a good answer; a stream when it has come to its end."""
        if reply.pieces is not None:
            reply.pieces = self._answers.keeping(call, reply, reply.pieces, ttl_s)
        elif call.is_complete:
            await self._answers.keep(call.order, reply.content_type, reply.body, ttl_s=ttl_s)
        return reply


async def _finish(running: "asyncio.Task[Reply]") -> None:
    """See a call to its end that nobody waits for. What fails has left its own row."""
    with suppress(AppError):
        reply = await running
        if reply.pieces is not None:
            await _drain(None, reply.pieces)


async def _drain(step: "asyncio.Task[bytes] | None", pieces: AsyncIterator[bytes]) -> None:
    with suppress(AppError, StopAsyncIteration):
        if step is not None:
            await step
        async for _ in pieces:
            pass
