"""What the MLX child's event loop and its engine thread say to each other."""

import asyncio
import sys
import threading
import traceback
from collections import deque
from typing import Any, Generic, TypeVar

import msgspec


class Refusal(Exception):
    """A request that is not served, as OpenAI's error envelope tells it."""

    def __init__(
        self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code


class QueueFull(Refusal):
    """More is waiting than the limit."""

    def __init__(self) -> None:
        super().__init__("The local model is busy; try again.", status=503, code="queue_full")


class EngineFailed(Refusal):
    """The model's library failed. What it said may hold a prompt, so it stays out of the text."""

    def __init__(self) -> None:
        super().__init__("The local model failed.", status=500, code="engine_failed")


class Chat(msgspec.Struct, frozen=True):
    """Messages and tools as a chat template wants them."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    must_call: bool = False
    may_think: bool = True


class Sampling(msgspec.Struct, frozen=True):
    """How tokens are chosen, and when enough is enough. None leaves it to the model's own file."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stops: tuple[str, ...] = ()
    bias: dict[int, float] = {}


class ToolCall(msgspec.Struct, frozen=True):
    """A call that the model wants; ``arguments`` is JSON text."""

    id: str
    name: str
    arguments: str


class Delta(msgspec.Struct, frozen=True):
    """A piece of an answer."""

    content: str = ""
    reasoning: str = ""
    call: ToolCall | None = None


class Ended(msgspec.Struct, frozen=True):
    """The answer is whole. The tokens are all that the model made, its end token too."""

    reason: str
    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int


class Vectors(msgspec.Struct, frozen=True):
    """One unit vector for each input, in order."""

    rows: list[list[float]]
    prompt_tokens: int


E = TypeVar("E")


class Job(Generic[E]):
    """One request. The loop makes it, reads its events and may cancel it; the thread does it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[E | Refusal] = asyncio.Queue()
        self.is_cancelled = False

    async def next(self) -> E:
        """Return the next event, or raise the refusal that takes its place."""
        event = await self._events.get()
        if isinstance(event, Refusal):
            raise event
        return event

    def cancel(self) -> None:
        """Stop at the next token. Harmless when the job has ended."""
        self.is_cancelled = True

    def tell(self, event: E | Refusal) -> None:
        """Hand an event over, from the thread."""
        self._loop.call_soon_threadsafe(self._events.put_nowait, event)


class ReplyJob(Job[Delta | Ended]):
    """Continue a chat, a text or a list of tokens: pieces, and how it ended."""

    def __init__(self, prompt: Chat | str | list[int], sampling: Sampling) -> None:
        super().__init__()
        self.prompt = prompt
        self.sampling = sampling


class EmbedJob(Job[Vectors]):
    """Make a vector of each text or list of tokens."""

    def __init__(self, inputs: list[str] | list[list[int]]) -> None:
        super().__init__()
        self.inputs = inputs


class Inbox:
    """Jobs on their way to the thread, up to a limit. Who has given up waiting takes no place."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._jobs: deque[Job[Any]] = deque()
        self._news = threading.Condition()
        self.is_closed = False

    def __len__(self) -> int:
        return sum(not job.is_cancelled for job in tuple(self._jobs))

    def put(self, job: Job[Any]) -> None:
        """Queue ``job``, or raise ``QueueFull``."""
        with self._news:
            if len(self) >= self._limit:
                raise QueueFull
            self._jobs = deque(known for known in self._jobs if not known.is_cancelled)
            self._jobs.append(job)
            self._news.notify()

    def get(self, *, waits: bool) -> Job[Any] | None:
        """Return the next job; None when there is none, or when the box is closed."""
        with self._news:
            while waits and not self._jobs and not self.is_closed:
                self._news.wait()
            return self._jobs.popleft() if self._jobs and not self.is_closed else None

    def close(self) -> None:
        with self._news:
            self.is_closed = True
            self._news.notify()


def report(error: Exception) -> None:
    """Say where something went wrong. What an exception says may hold somebody's prompt."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    sys.stderr.write(f"{type(error).__name__} at {frame.filename}:{frame.lineno}\n")
