"""The way to an answer over upstreams that fail: try, try again, try elsewhere, in one deadline.

What is done about a failure follows from whose it is (``domain/faults.py``). Nothing is tried
again once the caller has had a piece of an answer, so the first frames of a stream are held until
there is content in them.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import msgspec

from app.kernel.errors import AppError, BadUpstream, Invalid, Unavailable, UpstreamTimeout
from app.modules.routing.domain.answers import Part, read_answer, read_message
from app.modules.routing.domain.breaker import ERROR, OUTAGE
from app.modules.routing.domain.envelope import Surface
from app.modules.routing.domain.faults import (
    AnswerTooLarge,
    CircuitOpen,
    Fault,
    NoCapacity,
    StreamBroken,
    UpstreamNonsense,
    UpstreamSilent,
    UpstreamUnreachable,
    backoff_s,
    fault_of,
    retry_after_s,
)
from app.modules.routing.domain.streams import StreamReader
from app.modules.routing.ports import Answer, AnswerStream, Ask, Target
from app.modules.routing.service.gates import KEY_REST_S, Gate, Gates, Pace

HOLD_LIMIT_BYTES = 65_536
OUTAGE_STATUSES = frozenset({502, 503, 504})
LEAST_WAIT_S = 0.05
END_GRACE_S = 0.25

Asking = Callable[[Target, str], Ask]


class Whole(msgspec.Struct, frozen=True):
    """A whole answer that is not our fault: the model's, or the caller's error."""

    target: Target
    answer: Answer
    part: Part | None


class Opened(msgspec.Struct):
    """A stream with content, and what of it was held back until there was some."""

    target: Target
    gate: Gate | None
    stream: AnswerStream
    reader: StreamReader
    held: bytes = b""

    async def close(self) -> None:
        """Give the place back, and cut the upstream off. Harmless the second time.

        A stream that has told its end is given a moment: its connection has its own end after
        that, and can be used again.
        """
        gate, self.gate = self.gate, None
        if gate is None:
            return
        gate.leave()
        if not self.reader.is_done:
            await self.stream.close()
            return
        loop = asyncio.get_running_loop()
        loop.call_later(END_GRACE_S, lambda: loop.create_task(self._cut()))

    async def _cut(self) -> None:
        await self.stream.close()


class Progress(msgspec.Struct):
    """How far a call has come; the call reads it when it is settled."""

    attempts: int = 0
    upstream_s: float = 0.0
    target: Target | None = None

    @property
    def is_sent(self) -> bool:
        """Whether any upstream has been asked."""
        return self.attempts > 0

    def begin(self, target: Target) -> None:
        self.target = target
        self.attempts += 1


class _Failed(Exception):
    """One try has failed: whose fault, and what to tell the caller if it was the last one."""

    def __init__(self, fault: Fault, answer: Answer | None, error: AppError | None) -> None:
        super().__init__(fault)
        self.fault = fault
        self.answer = answer
        self.error = error

    @property
    def is_outage(self) -> bool:
        """Whether nobody was there to answer, as far as one can see from here."""
        return self.answer is None or self.answer.status in OUTAGE_STATUSES


class Trip(msgspec.Struct, frozen=True):
    """One call to be dispatched. ``targets``: the best first, at least one. ``asking`` writes the
    request for a target and a key.

    ``own_key`` takes the place of the upstream's keys, so that there is none to rotate.
    ``request`` is the body as it came.
    """

    targets: Sequence[Target]
    asking: Asking
    is_streamed: bool
    deadline_s: float
    strips_usage: bool = False
    own_key: str = ""
    request: bytes = b""

    @property
    def mark(self) -> int:
        """Tells this request from others, and not from itself when it comes again."""
        return hash(self.request)


class Dispatcher:
    """Finds an answer for a trip. ``retries``: more tries of one target after a server fault."""

    def __init__(
        self,
        gates: Gates,
        *,
        retries: int = 1,
        draw: Callable[[], float] = random.random,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._gates = gates
        self._retries = retries
        self._draw = draw
        self._pause = pause

    async def run(self, trip: Trip, progress: Progress) -> Whole | Opened:
        """Return the first answer that stands; else the last failure, as the caller's answer."""
        until_s = self._gates.now() + trip.deadline_s
        last: _Failed | None = None
        for target in trip.targets:
            try:
                return await self._at(target, trip, progress, until_s)
            except _Failed as failed:
                last = failed if last is None else _worse(last, failed)
            if self._gates.now() >= until_s:
                break
        assert last is not None  # noqa: S101 - a trip has a target
        if last.answer is None:
            raise last.error or UpstreamNonsense("No upstream answered.")
        target = progress.target or trip.targets[0]
        return Whole(target, last.answer, read_answer(last.answer.body))

    async def _at(
        self, target: Target, trip: Trip, progress: Progress, until_s: float
    ) -> Whole | Opened:
        """Try one target as often as its failures allow."""
        keys_left = len(self._gates.gate(target.source).keys) if not trip.own_key else 1
        retries_left = self._retries
        while True:
            try:
                return await self._once(target, trip, progress, until_s)
            except _Failed as failed:
                if failed.fault is Fault.KEY and keys_left > 1:
                    keys_left -= 1
                elif failed.fault in {Fault.SERVER, Fault.SATURATION} and retries_left > 0:
                    retries_left -= 1
                    wait_s = backoff_s(self._retries - retries_left, self._draw())
                    if self._gates.now() + wait_s >= until_s:
                        raise
                    await self._pause(wait_s)
                else:
                    raise

    async def _once(
        self, target: Target, trip: Trip, progress: Progress, until_s: float
    ) -> Whole | Opened:
        """Try once: through the breakers and the gate, then ask."""
        gates = self._gates
        gate, pace = gates.gate(target.source), gates.pace(target)
        await self._enter(target, gate, until_s)
        progress.begin(target)
        gate.calls += 1
        began_s = gates.now()
        keeps_place = False
        try:
            found = await self._ask(target, trip, gate, until_s - began_s)
            keeps_place = found.__class__ is Opened
        except _Failed as failed:
            self._blame(failed, gate, pace, trip.mark)
            raise
        except BaseException:
            gate.line.stand_back()
            pace.breaker.stand_back()
            raise
        finally:
            elapsed_s = gates.now() - began_s
            progress.upstream_s += elapsed_s
            if not keeps_place:
                gate.leave()
        gate.line.succeed()
        pace.breaker.succeed()
        if keeps_place or found.answer.status == 200:  # type: ignore[union-attr]  # only streams keep it
            pace.note(elapsed_s * 1000, began_s + elapsed_s, is_streamed=trip.is_streamed)
        return found

    async def _enter(self, target: Target, gate: Gate, until_s: float) -> None:
        """Pass the breakers and take a place; who cannot is sent elsewhere."""
        gates = self._gates
        try:
            gates.begin(target)
            if gate.is_free:
                gate.in_flight += 1
            else:
                await gate.enter(until_s - gates.now())
        except BaseException as error:
            gate.line.stand_back()
            gates.pace(target).breaker.stand_back()
            if isinstance(error, (CircuitOpen, NoCapacity)):
                raise _Failed(Fault.TARGET, None, error) from None
            raise

    async def _ask(self, target: Target, trip: Trip, gate: Gate, left_s: float) -> Whole | Opened:
        ask = self._within(trip.asking(target, trip.own_key or gate.keys.pick()), left_s)
        try:
            if not trip.is_streamed:
                found: Answer | AnswerStream = await target.upstream.post(ask)
            else:
                found = await target.upstream.stream(ask)
        except (AnswerTooLarge, Invalid) as error:
            raise _Failed(Fault.TARGET, None, error) from error
        except (BadUpstream, UpstreamTimeout, Unavailable) as error:
            raise _Failed(Fault.SERVER, None, error) from error
        if isinstance(found, Answer):
            return self._judge(found, target, ask, gate)
        reader = StreamReader(ask.surface, strips_usage=trip.strips_usage)
        opened = Opened(target, gate, found, reader)
        await _hold(opened, left_s)
        return opened

    def _judge(self, answer: Answer, target: Target, ask: Ask, gate: Gate) -> Whole:
        """Let an answer stand, or raise what is wrong with it."""
        fault = fault_of(answer.status, is_pool=target.source.is_pool)
        part = _read(ask.surface, answer.body)
        if fault is Fault.NONE:
            if part is None:
                text = f"{target.source.name} answered 200 with a body that is no JSON object."
                raise _Failed(Fault.SERVER, None, UpstreamNonsense(text))
            return Whole(target, answer, part)
        if fault is Fault.CALLER:
            return Whole(target, answer, part)
        if fault is Fault.KEY:
            gate.keys.rest(ask.key, retry_after_s(answer.retry_after, KEY_REST_S))
        raise _Failed(fault, answer, None)

    def _within(self, ask: Ask, left_s: float) -> Ask:
        """Shorten an ask's deadlines to what is left of the call's."""
        deadlines = ask.deadlines
        if deadlines.first_byte_s <= left_s:
            return ask
        left_s = max(left_s, LEAST_WAIT_S)
        shorter = msgspec.structs.replace(
            deadlines, first_byte_s=left_s, connect_s=min(deadlines.connect_s, left_s)
        )
        return msgspec.structs.replace(ask, deadlines=shorter)

    def _blame(self, failed: _Failed, gate: Gate, pace: Pace, request: int) -> None:
        """Tell the breakers. Only a server's own fault counts against it."""
        if failed.fault is not Fault.SERVER:
            gate.line.stand_back()
            pace.breaker.stand_back()
            return
        gate.failures += 1
        now_s = self._gates.now()
        pace.breaker.fail(now_s, request, OUTAGE if failed.is_outage else ERROR)
        if isinstance(failed.error, UpstreamUnreachable):
            gate.line.fail(now_s, request)
        elif failed.answer is not None:
            gate.line.succeed()
        else:
            gate.line.stand_back()


async def _hold(opened: Opened, left_s: float) -> None:
    """Read a stream until it has content; an error before that is as good as a status."""
    try:
        async with asyncio.timeout(max(left_s, LEAST_WAIT_S)):
            opened.held = await _opening(opened)
    except BaseException as error:
        await opened.stream.close()
        if isinstance(error, TimeoutError):
            name = opened.target.source.name
            silent = UpstreamSilent(f"{name} said nothing within the call's deadline.")
            raise _Failed(Fault.SERVER, None, silent) from None
        if isinstance(error, (BadUpstream, UpstreamTimeout, Unavailable)):
            raise _Failed(Fault.SERVER, None, error) from error
        raise


async def _opening(opened: Opened) -> bytes:
    """The events up to the first with content, or to the end."""
    held = []
    size = 0
    reader = opened.reader
    async for chunk in opened.stream.chunks:
        piece = reader.feed(chunk)
        held.append(piece)
        size += len(piece)
        if reader.error and not reader.has_content:
            raise _in_band(reader.error)
        if reader.has_content or reader.is_done or size > HOLD_LIMIT_BYTES:
            return b"".join(held)
    text = f"{opened.target.source.name} ended its stream before it was complete."
    raise _Failed(Fault.SERVER, None, StreamBroken(text))


def _in_band(error: bytes) -> _Failed:
    """Class an error that a server has sent inside a stream with status 200."""
    told = _InBand()
    with suppress(msgspec.DecodeError, UnicodeDecodeError):
        told = msgspec.json.decode(error, type=_InBand)
    status = told.code if isinstance(told.code, int) and 400 <= told.code < 600 else 502
    body = b'{"error":' + error + b"}"
    fault = fault_of(status)
    return _Failed(fault, Answer(status, "application/json", body), None)


class _InBand(msgspec.Struct, frozen=True):
    code: int | str | None = None


def _read(surface: Surface, body: bytes) -> Part | None:
    return read_message(body) if surface == "messages" else read_answer(body)


def _worse(one: _Failed, other: _Failed) -> _Failed:
    """Of two failures, the one that tells the caller more: what an upstream said beats what a
    breaker or a full queue of ours said.
    """
    is_ours = isinstance(other.error, (CircuitOpen, NoCapacity))
    return one if is_ours else other
