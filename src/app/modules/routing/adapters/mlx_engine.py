"""Runs one MLX model on one thread: replies share a batch, embeddings come between its steps.

Everything of MLX happens on that thread, the loading too. Metal and MLX's streams belong to the
thread that made them, and a process in which another thread's streams are still open at its end
is aborted.
"""

import asyncio
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

import mlx.core as mx
import msgspec

from app.modules.routing.adapters.mlx_jobs import (
    EmbedJob,
    EngineFailed,
    Inbox,
    Job,
    Refusal,
    ReplyJob,
    Vectors,
    report,
)
from app.modules.routing.adapters.mlx_model import Model
from app.modules.routing.adapters.mlx_text import Reply

WARM_UP: Final = [0, 0]


class EngineOptions(msgspec.Struct, frozen=True):
    """What one engine runs and how much it takes on."""

    model: str
    cache_bytes: int
    parallel: int
    queue_limit: int


class Embedding:
    """One embedding job in the making."""

    def __init__(self, job: EmbedJob, model: Model) -> None:
        self.job = job
        inputs = model.inputs(job.inputs)
        self._count = len(inputs)
        self._tokens = sum(len(tokens) for tokens in inputs)
        self._steps = (step for tokens in inputs for step in model.vector(tokens))
        self._rows: list[list[float]] = []

    def advance(self) -> bool:
        """Read on; return whether that was the end."""
        row = next(self._steps)
        if row is not None:
            self._rows.append(row)
        if len(self._rows) < self._count:
            return False
        self.job.tell(Vectors(self._rows, self._tokens))
        return True


class Work:
    """What the thread has loaded and is making. Lives and dies on the thread."""

    def __init__(self, options: EngineOptions) -> None:
        self._parallel = options.parallel
        self._model = Model(options.model, options.cache_bytes)
        self._batch = self._model.batch(options.parallel)
        self._replies: dict[int, Reply] = {}
        self._embeddings: list[Embedding] = []
        self._warm_up()

    @property
    def size(self) -> int:
        return len(self._replies) + len(self._embeddings)

    def begin(self, job: Job[Any]) -> None:
        """Take a job in, or tell it why not."""
        if job.is_cancelled:
            return
        try:
            if isinstance(job, ReplyJob):
                number, reply = self._model.insert(self._batch, job)
                self._replies[number] = reply
            elif isinstance(job, EmbedJob):
                self._embeddings.append(Embedding(job, self._model))
        except Refusal as refusal:
            job.tell(refusal)
        except Exception as error:  # noqa: BLE001 - one bad request must not end the thread
            _fail(error, job)

    def step(self) -> None:
        """Make a token of each reply and read a piece of what is embedded."""
        self._forget_cancelled()
        try:
            self._decode(self._batch)
        except Exception as error:  # noqa: BLE001 - nobody knows whose token the library choked on
            _fail(error, *(reply.job for reply in self._replies.values()))
            self._replies.clear()
            self._batch = self._model.batch(self._parallel)
        if self._embeddings:
            self._embed(self._embeddings[0])

    def _warm_up(self) -> None:
        """Make one token, so that a model which cannot is known before anybody asks it."""
        self._batch.insert([WARM_UP], max_tokens=[1])
        while not self._batch.next()[1]:
            pass

    def _forget_cancelled(self) -> None:
        gone = [number for number, reply in self._replies.items() if reply.job.is_cancelled]
        if gone:
            self._batch.remove(gone)
        for number in gone:
            del self._replies[number]
        self._embeddings = [work for work in self._embeddings if not work.job.is_cancelled]

    def _decode(self, batch: Any) -> None:
        if not self._replies:
            return
        for made in batch.next()[1]:
            if self._replies[made.uid].advance(made.token, made.finish_reason):
                del self._replies[made.uid]
                if made.finish_reason is None:
                    batch.remove([made.uid])

    def _embed(self, work: Embedding) -> None:
        is_done = True
        try:
            is_done = work.advance()
        except Exception as error:  # noqa: BLE001 - one bad input must not end the thread
            _fail(error, work.job)
        if is_done:
            self._embeddings.remove(work)


class Engine:
    """Takes jobs from the event loop and does them on its own thread."""

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self._inbox = Inbox(options.queue_limit)
        self._step_began_at: float | None = None
        self.active = 0

    def start(self) -> asyncio.Future[None]:
        """Load the model. The future ends when it has made its first token, or tells why not."""
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()

        def settle(problem: str) -> None:
            if ready.cancelled():
                return
            if problem:
                ready.set_exception(Refusal(problem))
            else:
                ready.set_result(None)

        def run() -> None:
            try:
                self._serve(lambda problem: loop.call_soon_threadsafe(settle, problem))
            finally:
                mx.synchronize()
                mx.clear_streams()

        self._thread = threading.Thread(target=run, name="mlx", daemon=True)
        self._thread.start()
        return ready

    def submit(self, job: Job[Any]) -> None:
        """Queue ``job``, or raise ``QueueFull``."""
        self._inbox.put(job)

    @property
    def waiting(self) -> int:
        return len(self._inbox)

    @property
    def stuck_for_s(self) -> float:
        """How long the step that runs now has been running."""
        began = self._step_began_at
        return 0.0 if began is None else monotonic() - began

    def stop(self, within_s: float) -> bool:
        """End the thread; return whether it did so in time."""
        self._inbox.close()
        self._thread.join(within_s)
        return not self._thread.is_alive()

    def _serve(self, settle: Callable[[str], object]) -> None:
        try:
            work = Work(self._options)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is why there is no model
            settle(f"{type(error).__name__}: {error}")
            return
        settle("")
        while not self._inbox.is_closed:
            self._admit(work)
            self._step_began_at = monotonic()
            work.step()
            self.active = work.size

    def _admit(self, work: Work) -> None:
        """Take in what waits, up to the limit; wait when there is nothing else to do."""
        while work.size < self._options.parallel:
            is_idle = work.size == 0
            if is_idle:
                self._step_began_at = None
            job = self._inbox.get(waits=is_idle)
            if job is None:
                return
            self._step_began_at = monotonic()
            work.begin(job)
            self.active = work.size


def _fail(error: Exception, *jobs: Job[Any]) -> None:
    report(error)
    for job in jobs:
        job.tell(EngineFailed())
