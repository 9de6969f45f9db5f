"""A run in the hands of this process."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias
from uuid import UUID

from app.kernel.errors import AppError
from app.modules.runs.api import News, Run, RunLost, Write
from app.modules.runs.domain import EFFECT_BEGUN, EFFECT_DONE, Effects, Status
from app.modules.runs.models import RunRow
from app.modules.runs.repository import Hold
from app.modules.runs.service.scribe import Scribe

Answer: TypeAlias = asyncio.Future[dict[str, Any]]
Told: TypeAlias = Callable[[UUID, Status], None]


class EffectUnknown(AppError):
    """An effect was begun before a crash, may not be done twice, and left no result."""

    title = "Effect unknown"


class RunTurn:
    """Implements ``api.Turn``. ``told`` is called after every commit."""

    def __init__(
        self,
        scribe: Scribe,
        run: Run,
        worker: str,
        effects: Effects,
        told: Told,
    ) -> None:
        self._scribe = scribe
        self._run = run
        self._effects = effects
        self._told = told
        self._answers: dict[int, Answer] = {}
        self.hold = Hold(run.id, worker, run.fence)

    @property
    def run(self) -> Run:
        return self._run

    async def say(self, *news: News, write: Write | None = None) -> int:
        row = self._still(await self._scribe.keep(lambda runs: runs.say(self.hold, news), write))
        self._note(row)
        return row.last_seq

    async def ask(
        self, question: News, *, within_s: float, write: Write | None = None
    ) -> dict[str, Any]:
        # By itself: who is told of the question looks up its number a moment after the commit.
        change = self._scribe.keep_alone(lambda runs: runs.ask(self.hold, question), write)
        row = self._still(await change)
        assert row.question_seq is not None  # noqa: S101 - ask has just set it
        seq = row.question_seq
        answered: Answer = asyncio.get_running_loop().create_future()
        self._answers[seq] = answered
        self._note(row)
        try:
            async with asyncio.timeout(within_s):
                answer = await answered
        except TimeoutError:
            return await self._give_up(seq, answered)
        finally:
            self._answers.pop(seq, None)
        return answer

    async def effect(
        self, key: str, act: Callable[[], Awaitable[Any]], *, is_idempotent: bool
    ) -> Any:
        if key in self._effects.done:
            return self._effects.done[key]
        if not self._effects.begun.get(key, True):
            raise EffectUnknown(f"Whether {key!r} was done before the crash cannot be told.")
        await self.say(News(EFFECT_BEGUN, {"key": key, "is_idempotent": is_idempotent}))
        self._effects.begun[key] = is_idempotent
        result = await act()
        await self.say(News(EFFECT_DONE, {"key": key, "result": result}))
        self._effects.done[key] = result
        return result

    def hear(self, question_seq: int, answer: dict[str, Any]) -> None:
        """An answer has come."""
        waiting = self._answers.get(question_seq)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    @property
    def questions(self) -> list[int]:
        """The questions that are waited for."""
        return [seq for seq, waiting in self._answers.items() if not waiting.done()]

    async def _give_up(self, seq: int, answered: Answer) -> dict[str, Any]:
        """Wait no longer, unless an answer was written down in this very moment."""
        row = await self._scribe.keep_alone(
            lambda runs: runs.go_on(self.hold.run_id, seq, [], self.hold)
        )
        if row is None:
            # It was answered, and the news is on its way; or the run is ours no more.
            return await answered
        self._note(row)
        raise TimeoutError(f"Nobody answered question {seq} in time.")

    def _still(self, row: RunRow | None) -> RunRow:
        if row is None:
            raise RunLost("The run was ended, or taken over by another process.")
        return row

    def _note(self, row: RunRow) -> None:
        self._run = run_of(row)
        self._told(row.id, row.status)


def run_of(row: RunRow) -> Run:
    return Run(**{name: getattr(row, name) for name in Run.__struct_fields__})
