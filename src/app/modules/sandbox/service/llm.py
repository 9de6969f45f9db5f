"""Who answers a script that asks a language model: its caller, or the gateway in this process."""

import asyncio
from functools import partial
from typing import Any, Final, Protocol

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from app.kernel.db import after_commit
from app.kernel.errors import AppError
from app.modules.auth.api import Principal
from app.modules.routing.api import Completions
from app.modules.runs.api import News, Turn
from app.modules.sandbox.domain.executions import Question
from app.modules.sandbox.repository.executions import ExecutionRepository
from app.modules.sandbox.service.live import LiveExecution

ASKED: Final = "llm.asked"


class LlmSilent(AppError):
    """Nobody answered a script in time."""

    title = "No answer"


class LlmUnanswered(AppError):
    """There is no answer, and the script may go on without; the text is the script's to see."""

    title = "No completion"


class Asking(Protocol):
    async def ask(self, prompt: str, model: str, seq: int) -> str:
        """The completion; ``LlmUnanswered`` or ``LlmSilent`` if there is none."""
        ...


class CallerAsking:
    """Have the caller answer over HTTP: the run waits for it."""

    def __init__(self, turn: Turn, live: LiveExecution, wait_s: float) -> None:
        self._turn = turn
        self._live = live
        self._wait_s = wait_s

    async def ask(self, prompt: str, model: str, seq: int) -> str:
        try:
            answer = await self._turn.ask(
                News(ASKED, {"prompt": prompt, "model": model, "llm_seq": seq}),
                within_s=self._wait_s,
                write=partial(self._write, Question(prompt, model)),
            )
        except TimeoutError:
            raise LlmSilent(f"Nobody answered llm within {self._wait_s} s.") from None
        self._live.run()
        return str(answer["response"])

    async def _write(self, question: Question, session: AsyncSession) -> None:
        run_id = self._turn.run.id
        await ExecutionRepository(session).ask(run_id, msgspec.json.encode(question))
        after_commit(session, partial(self._tell, question))

    def _tell(self, question: Question) -> None:
        # A moment later: the turn learns its question's number when the transaction is behind it.
        asyncio.get_running_loop().call_soon(
            lambda: self._live.ask(question, str(self._turn.run.question_seq))
        )


class GatewayAsking:
    """Have the gateway answer, metered to the caller. It is done once, or the run says unknown."""

    def __init__(
        self, turn: Turn, completions: Completions, caller: Principal, default_model: str
    ) -> None:
        self._turn = turn
        self._completions = completions
        self._caller = caller
        self._default_model = default_model

    async def ask(self, prompt: str, model: str, seq: int) -> str:
        name = self._default_model if model == "default" else model
        result = await self._turn.effect(
            f"llm:{seq}", partial(self._complete, prompt, name), is_idempotent=False
        )
        if "refused" in result:
            raise LlmUnanswered(result["refused"])
        return str(result["text"])

    async def _complete(self, prompt: str, model: str) -> dict[str, Any]:
        try:
            completion = await self._completions.complete(
                self._caller, model, prompt, call_key=str(self._turn.run.id)
            )
        except AppError as error:
            return {"refused": str(error)}
        return {"text": completion.text, "call_id": str(completion.call_id)}
