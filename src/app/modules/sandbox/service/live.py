"""Executions of this process as they stand: who waits or polls need not ask the database.

What is here is a copy of what is committed; without it the database is asked.
"""

import asyncio
from collections import OrderedDict, deque
from typing import Final
from uuid import UUID

import msgspec

from app.modules.sandbox.domain.executions import FINAL, Execution, Order, Outcome, Question
from app.modules.sandbox.service.output import Output
from app.modules.sandbox.service.pool import Pool

KEPT: Final = 512
END_WITHIN_S: Final = 60.0
# A larger outcome is read from the database when it is asked for.
KEPT_BYTES: Final = 64 * 1024


class LiveExecution:
    """One execution. ``order`` is what it was given, ``output`` what it prints, until it ends."""

    def __init__(self, user_id: UUID, execution: Execution, order: Order | None) -> None:
        self.user_id = user_id
        self.execution = execution
        self.order = order
        self.output: Output | None = None
        self.pool: Pool | None = None
        self._is_in_queue = False
        self._is_parked = False
        self._changed: list[asyncio.Future[None]] = []

    def seen(self) -> Execution:
        """As it stands now, with what it has printed so far."""
        if self.execution.status in FINAL or self.output is None:
            return self.execution
        said = Outcome(
            completed_at=self.execution.created_at,
            stdout=self.output.text("stdout"),
            stderr=self.output.text("stderr"),
            stdout_truncated=self.output.is_truncated("stdout"),
            stderr_truncated=self.output.is_truncated("stderr"),
        )
        return msgspec.structs.replace(self.execution, outcome=said)

    @property
    def is_waiting_or_final(self) -> bool:
        return self.execution.status in FINAL or self.execution.status == "awaiting_llm"

    def enter_queue(self, pool: Pool) -> None:
        """Keep the place in the queue that was entered for it."""
        self.pool = pool
        self._is_in_queue = True

    def leave_queue(self) -> None:
        """It has a worker, or asks for one itself, or needs none. Leaving twice is fine."""
        if self._is_in_queue and self.pool is not None:
            self._is_in_queue = False
            self.pool.entered()

    def park(self) -> None:
        """It is left to the next process."""
        self._is_parked = True
        self._wake()

    @property
    def is_settled(self) -> bool:
        """Whether nothing of it will change in this process any more."""
        return self._is_parked or self.execution.status in FINAL

    def become(self, execution: Execution) -> None:
        """It has changed; one that is final changes no more."""
        if self.execution.status in FINAL:
            return
        self.execution = execution
        self._wake()

    def run(self) -> None:
        self.become(
            msgspec.structs.replace(
                self.execution, status="running", question=None, request_id=None
            )
        )

    def queue(self) -> None:
        self.become(msgspec.structs.replace(self.execution, status="pending"))

    def ask(self, question: Question, request_id: str) -> None:
        self.become(
            msgspec.structs.replace(
                self.execution, status="awaiting_llm", question=question, request_id=request_id
            )
        )

    async def until_settled(self) -> None:
        while not self.is_settled:
            await self._change()

    async def until_waiting_or_final(self) -> None:
        while not self.is_waiting_or_final:
            await self._change()

    async def until_final(self) -> None:
        while self.execution.status not in FINAL:
            await self._change()

    def _wake(self) -> None:
        for waiter in self._changed:
            if not waiter.done():
                waiter.set_result(None)
        self._changed.clear()

    async def _change(self) -> None:
        changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._changed.append(changed)
        try:
            await changed
        finally:
            if changed in self._changed:
                self._changed.remove(changed)


class Live:
    """The executions of this process, and the last ones that ended."""

    def __init__(self) -> None:
        self._going: dict[UUID, LiveExecution] = {}
        self._ended: OrderedDict[UUID, LiveExecution] = OrderedDict()
        self._ending: deque[tuple[float, UUID]] = deque()

    def find(self, run_id: UUID) -> LiveExecution | None:
        return self._going.get(run_id) or self._ended.get(run_id)

    def add(self, user_id: UUID, execution: Execution, order: Order | None) -> LiveExecution:
        """Take up an execution, or find the one that is here already."""
        return self._going.setdefault(execution.id, LiveExecution(user_id, execution, order))

    async def until_settled(self) -> None:
        """Wait until every one has ended, or is left to the next process."""
        for live in list(self._going.values()):
            await live.until_settled()

    def expect_end(self, run_id: UUID) -> None:
        """Its end is about to be written. Where the run was lost before that, nobody will say so:
        it is dropped then, when others come and go.
        """
        now = asyncio.get_running_loop().time()
        while self._ending and self._ending[0][0] < now:
            self.drop(self._ending.popleft()[1])
        self._ending.append((now + END_WITHIN_S, run_id))

    def end(self, execution: Execution, size_bytes: int) -> None:
        """It has ended, and that is committed."""
        live = self._going.pop(execution.id, None)
        if live is None:
            return
        live.order = None
        live.output = None
        live.pool = None
        live.become(execution)
        if size_bytes <= KEPT_BYTES:
            self._ended[execution.id] = live
            if len(self._ended) > KEPT:
                self._ended.popitem(last=False)

    def drop(self, run_id: UUID) -> None:
        """It goes on elsewhere, or ended in a way that only the database knows: ask there."""
        live = self._going.pop(run_id, None)
        if live is not None:
            live.leave_queue()
            live.become(msgspec.structs.replace(live.execution, status="error"))

    def forget(self, run_id: UUID) -> None:
        self._ended.pop(run_id, None)
