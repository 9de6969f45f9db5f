"""One script in one worker, from its job to what it leaves."""

import asyncio
from base64 import b64encode
from collections.abc import Coroutine
from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from app.kernel.errors import AppError
from app.modules.runs.api import Turn
from app.modules.sandbox.domain.executions import (
    Artifact,
    End,
    Order,
    Outcome,
    end_text,
    is_cpu_end,
)
from app.modules.sandbox.domain.frames import ArtifactPart, Dialogue, Done, LlmAsked, ProtocolBroken
from app.modules.sandbox.domain.redaction import Redactor
from app.modules.sandbox.ports import Gone, Printed, Worker
from app.modules.sandbox.service.llm import Asking, LlmSilent, LlmUnanswered
from app.modules.sandbox.service.output import Output, OutputFlood
from app.modules.sandbox.service.pool import Pool
from app.modules.sandbox.service.shelf import Shelf

CHUNK_BYTES: Final = 512 * 1024
# How often the worker of a paused script is looked at: its end is the script's.
LOOK_EVERY_S: Final = 0.2
# What a worker holds itself to, so that a script can catch what it runs into. Those after
# ``artifact_mb`` its template has set already: for this caller they may be lower.
TOLD_LIMITS: Final = (
    "result_kb",
    "memory_state_kb",
    "prompt_kb",
    "llm_calls",
    "artifacts",
    "artifact_mb",
    "cpu_s",
    "processes",
    "files",
    "file_mb",
)


class Verdict(msgspec.Struct, frozen=True):
    """How an attempt ended."""

    status: Literal["completed", "failed", "timed_out", "interrupted"]
    code: str
    error: str | None
    done: Done | None = None


class Attempt:
    """A script that is run once. ``run`` ends it; ``outcome`` is what there is to keep of it."""

    def __init__(self, turn: Turn, order: Order, pool: Pool, shelf: Shelf, asking: Asking) -> None:
        self._turn = turn
        self._order = order
        self._pool = pool
        self._limits = order.limits
        self._shelf = shelf
        self._asking = asking
        self._redactor = Redactor(pool.secrets)
        self.output = Output(turn, self._redactor, self._limits)
        self._dialogue = Dialogue(self._limits)
        self._artifacts: dict[str, Artifact] = {}
        self._pieces: list[bytes] = []
        self._paused_s = 0.0
        self._begun_at = 0.0
        self._ended_at = 0.0

    async def run(self, worker: Worker) -> Verdict:
        """Run the script. Its worker is not killed here."""
        loop = asyncio.get_running_loop()
        self._begun_at = loop.time()
        try:
            async with asyncio.timeout(self._order.timeout_s) as clock:
                verdict = await self._converse(worker, clock)
        except TimeoutError:
            text = f"The script ran longer than {self._order.timeout_s} s."
            verdict = Verdict("timed_out", "timeout", text)
        except LlmSilent as error:
            verdict = Verdict("timed_out", "llm_timeout", str(error))
        except (ProtocolBroken, OutputFlood) as error:
            verdict = Verdict("failed", _code(error), str(error))
        finally:
            self._ended_at = loop.time()
            self.output.finish()
        await self.output.settle()
        return verdict

    def outcome(self, verdict: Verdict | None, now: datetime) -> Outcome:
        done = verdict.done if verdict else None
        error = verdict.error if verdict else None
        redact = self._redactor
        ended_at = self._ended_at or asyncio.get_running_loop().time()
        return Outcome(
            completed_at=now,
            result=redact.value(done.result) if done else None,
            stdout=self.output.text("stdout"),
            stderr=self.output.text("stderr"),
            stdout_truncated=self.output.is_truncated("stdout"),
            stderr_truncated=self.output.is_truncated("stderr"),
            error=None if error is None else redact.text(error),
            memory_updates=redact.value(done.memory) if done and done.ok else {},
            execution_time_ms=round((ended_at - self._begun_at - self._paused_s) * 1000),
            artifacts=tuple(self._artifacts.values()),
        )

    async def _converse(self, worker: Worker, clock: asyncio.Timeout) -> Verdict:
        await self._hand_over(worker)
        async for event in worker.events():
            if isinstance(event, Printed):
                self.output.feed(event)
            elif isinstance(event, Gone):
                return self._gone(event)
            else:
                said = self._dialogue.accept(event.frame)
                if isinstance(said, Done):
                    return _verdict(said)
                if isinstance(said, LlmAsked):
                    await self._pause(worker, said, clock)
                elif isinstance(said, ArtifactPart):
                    await self._collect(said)
        return Verdict("failed", "worker_gone", "The worker is gone.")

    async def _hand_over(self, worker: Worker) -> None:
        limits = self._limits
        for file in self._order.files:
            last = max(len(file.data) - 1, 0) // CHUNK_BYTES
            for place in range(last + 1):
                piece = file.data[place * CHUNK_BYTES : (place + 1) * CHUNK_BYTES]
                frame = {"t": "file", "name": file.name, "data": _b64(piece), "more": place < last}
                await worker.send(frame)
        await worker.send(
            {
                "t": "job",
                "code": self._order.code,
                "settings": {**self._order.settings, **self._pool.secrets},
                "memory": self._order.memory,
                "limits": {
                    **{name: getattr(limits, name) for name in TOLD_LIMITS},
                    "memory_less_mb": self._pool.project.limits.memory_mb - limits.memory_mb,
                },
            }
        )

    async def _pause(self, worker: Worker, asked: LlmAsked, clock: asyncio.Timeout) -> None:
        """Hold the script and its clock until there is an answer; others may work meanwhile."""
        loop = asyncio.get_running_loop()
        since = loop.time()
        left_s = (clock.when() or since) - since
        clock.reschedule(None)
        try:
            await worker.freeze()
            await self.output.tell()
            reply = await _unless_gone(worker, self._reply(asked))
        finally:
            self._paused_s += loop.time() - since
        self._dialogue.answered()
        clock.reschedule(loop.time() + left_s)
        if reply is not None:
            await worker.thaw()
            await worker.send(reply)

    async def _reply(self, asked: LlmAsked) -> dict[str, Any]:
        if self._pool.paused >= self._limits.paused:
            text = f"{self._limits.paused} scripts wait for a model already; try later."
            return {"t": "llm_error", "seq": asked.seq, "message": text}
        self._pool.pause()
        redact = self._redactor.text
        try:
            text = await self._asking.ask(redact(asked.prompt), redact(asked.model), asked.seq)
        except LlmUnanswered as error:
            return {"t": "llm_error", "seq": asked.seq, "message": str(error)}
        finally:
            self._pool.resume()
        return {"t": "llm_reply", "seq": asked.seq, "text": text}

    async def _collect(self, part: ArtifactPart) -> None:
        self._pieces.append(part.data)
        if part.more:
            return
        data = self._redactor.data(b"".join(self._pieces))
        self._pieces.clear()
        name = self._redactor.text(part.name)
        places = {known: place for place, known in enumerate(self._artifacts)}
        await self._shelf.put(self._turn.run.id, places.get(name, len(places)), data)
        self._artifacts[name] = Artifact(name, len(data))

    def _gone(self, gone: Gone) -> Verdict:
        end = End(gone.exit_code, gone.signal, gone.reason)
        if is_cpu_end(end):
            cpu = End(None, None, "cpu")
            return Verdict("timed_out", "cpu", end_text(cpu, self._limits))
        return Verdict("failed", gone.reason or "worker_gone", end_text(end, self._limits))


async def _unless_gone(
    worker: Worker, replying: Coroutine[Any, Any, dict[str, Any]]
) -> dict[str, Any] | None:
    """The reply; or nothing, when there is nobody any more who could hear it."""
    reply = asyncio.ensure_future(replying)
    try:
        while not reply.done() and not worker.is_gone:
            await asyncio.wait({reply}, timeout=LOOK_EVERY_S)
        return reply.result() if reply.done() else None
    finally:
        reply.cancel()
        await asyncio.gather(reply, return_exceptions=True)


def _verdict(done: Done) -> Verdict:
    if done.ok:
        return Verdict("completed", "", None, done)
    return Verdict("failed", "script", done.error or f"Exit code {done.exit_code}.", done)


def _code(error: AppError) -> str:
    return error.title.lower().replace(" ", "_")


def _b64(data: bytes) -> str:
    return b64encode(data).decode()
