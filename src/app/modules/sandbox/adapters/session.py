"""One execution on a server, from its script to an exit status."""

import asyncio
import re
import secrets
from collections.abc import Mapping
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from app.kernel.errors import AppError, BadUpstream
from app.modules.sandbox.adapters.remote import RemoteSandbox, ServerEvent
from app.modules.sandbox.adapters.screen import Person, Screen, Stream

STATUSES: Final = {"completed": 0, "error": 1, "timeout": 124}
CANCEL_S: Final = 10.0


# How an output says that it has lost its middle.
LEFT_OUT: Final = re.compile(r"\n\[\.\.\. (\d{1,18}) bytes left out \.\.\.\]\n")
GOES_ON: Final = "the script no longer waits for this answer."
NULL: Final = msgspec.Raw(b"null")
ARTIFACTS_LIMIT: Final = 256


class ArtifactMisnamed(BadUpstream):
    """The server names a file in a way that would put it elsewhere."""

    title = "Artifact misnamed"


class _Text(msgspec.Struct, frozen=True):
    text: str


class _Status(msgspec.Struct, frozen=True):
    status: str


class _Question(msgspec.Struct, frozen=True):
    prompt: str
    model: str
    request_id: str | None


class _Artifact(msgspec.Struct, frozen=True):
    name: str
    size_bytes: int


class Ended(msgspec.Struct, frozen=True):
    """What is left of an execution. ``result`` is JSON."""

    status: Literal["completed", "error", "timeout"]
    error: str | None = None
    result: msgspec.Raw = NULL
    stdout: str = ""
    stderr: str = ""
    stdout_truncated: bool = False
    stderr_truncated: bool = False
    memory_updates: dict[str, Any] = {}
    artifacts: list[_Artifact] = []


class Session:
    """Shows one execution while it goes on. Without a ``person`` no question is answered here.

    Artifacts are saved in ``folder``, if there is one.
    """

    def __init__(
        self, sandbox: RemoteSandbox, screen: Screen, person: Person | None, folder: Path | None
    ) -> None:
        self._sandbox = sandbox
        self._screen = screen
        self._person = person
        self._folder = folder
        self._id = ""
        # Bytes of what came while the script ran: its log ends before a long output does.
        self._told: dict[Stream, int] = {"stdout": 0, "stderr": 0}
        self._answering: asyncio.Task[None] | None = None

    async def run(self, order: Mapping[str, Any]) -> int:
        """The exit status. Whatever ends this before the script does cancels the execution."""
        try:
            await self._submit(order)
            ended = await self._follow()
        except BaseException:
            await self._cancel()
            raise
        self._tell(ended)
        await self._save(ended)
        return STATUSES[ended.status]

    async def _submit(self, order: Mapping[str, Any]) -> None:
        """Learn the id in any case: what was begun and then interrupted has to be cancelled."""
        submitting = asyncio.ensure_future(self._sandbox.execute(order))
        try:
            self._id = await asyncio.shield(submitting)
        except asyncio.CancelledError:
            with suppress(AppError):
                self._id = await submitting
            raise

    async def _follow(self) -> Ended:
        async with aclosing(self._sandbox.events(self._id)) as events:
            coming = asyncio.ensure_future(anext(events))
            try:
                while True:
                    event = await self._next(coming)
                    ended = await self._take(event)
                    if ended is not None:
                        return ended
                    coming = asyncio.ensure_future(anext(events))
            finally:
                await _drop(coming)
                await _drop(self._answering)

    async def _next(self, coming: "asyncio.Future[ServerEvent]") -> ServerEvent:
        """Wait for an event. An answer that could not be given ends the wait."""
        while not coming.done():
            waited: list[asyncio.Future[Any]] = [
                task for task in (coming, self._answering) if task is not None
            ]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if self._answering is not None and self._answering.done():
                answered, self._answering = self._answering, None
                answered.result()
        return coming.result()

    async def _take(self, event: ServerEvent) -> Ended | None:
        try:
            if event.name == "result":
                return msgspec.json.decode(event.data, type=Ended)
            if event.name in {"stdout", "stderr"}:
                self._show("stdout" if event.name == "stdout" else "stderr", event)
            elif event.name == "status":
                await self._note(msgspec.json.decode(event.data, type=_Status).status)
            elif event.name == "llm_request" and self._person is not None:
                await _drop(self._answering)
                question = msgspec.json.decode(event.data, type=_Question)
                self._answering = asyncio.ensure_future(self._answer(self._person, question))
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise self._sandbox.stranger() from None
        return None

    def _show(self, stream: Stream, event: ServerEvent) -> None:
        text = msgspec.json.decode(event.data, type=_Text).text
        self._screen.show(stream, text)
        if event.id:
            self._told[stream] += len(text.encode())

    async def _note(self, status: str) -> None:
        """Stop waiting for an answer that the script no longer waits for."""
        if status != "awaiting_llm" and self._answering is not None:
            await _drop(self._answering)
            self._answering = None
            self._screen.say(GOES_ON)

    async def _answer(self, person: Person, question: _Question) -> None:
        text = await person.answer(question.prompt, question.model)
        if not await self._sandbox.respond(self._id, question.request_id, text):
            self._screen.say(GOES_ON)

    async def _cancel(self) -> None:
        """Let nothing go on that nobody looks at."""
        if not self._id:
            return
        try:
            async with asyncio.timeout(CANCEL_S):
                await self._sandbox.cancel(self._id)
        except (AppError, TimeoutError):
            self._screen.say(f"execution {self._id} could not be cancelled and may go on.")
        else:
            self._screen.say("the execution is cancelled.")

    def _tell(self, ended: Ended) -> None:
        """What went wrong and what changed on standard error; the result on standard output."""
        if ended.stdout_truncated and self._told["stdout"]:
            self._screen.show("stdout", unseen(ended.stdout, self._told["stdout"]))
        if ended.stderr_truncated and self._told["stderr"]:
            self._screen.show("stderr", unseen(ended.stderr, self._told["stderr"]))
        if ended.error:
            self._screen.say(ended.error.rstrip("\n"))
        if ended.memory_updates:
            updates = msgspec.json.encode(ended.memory_updates).decode()
            self._screen.say(f"memory updates: {updates}")
        if ended.result != NULL:
            self._screen.give(bytes(ended.result).decode())

    async def _save(self, ended: Ended) -> None:
        if ended.artifacts and self._folder is None:
            names = ", ".join(artifact.name for artifact in ended.artifacts)
            self._screen.say(f"files were saved ({names}); --artifacts FOLDER fetches them.")
            return
        for artifact in ended.artifacts[:ARTIFACTS_LIMIT]:
            path = _place(self._folder or Path(), artifact.name)
            data = await self._sandbox.artifact(self._id, artifact.name, artifact.size_bytes)
            await asyncio.to_thread(_write, path, data)
            self._screen.say(f"saved {path}")


def unseen(kept: str, told_bytes: int) -> str:
    """What the log of a long output did not tell, where ``kept`` is its head and its tail."""
    cut = LEFT_OUT.search(kept)
    if cut is None:
        return ""
    tail = kept[cut.end() :]
    unknown_bytes = len(kept[: cut.start()].encode()) + int(cut[1]) - told_bytes
    if unknown_bytes > 0:
        return f"\n[... {unknown_bytes} bytes left out ...]\n{tail}"
    return tail.encode()[-unknown_bytes:].decode(errors="ignore")


async def _drop(task: "asyncio.Future[Any] | None") -> None:
    """End a task of which nobody wants to know how it ended."""
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _place(folder: Path, name: str) -> Path:
    """Where a file of this name lies: in the folder, whatever the server calls it."""
    if name in {"", ".", ".."} or any(char in name for char in "/\\\0"):
        raise ArtifactMisnamed(f"A file that is called {name!r} is not saved.")
    return folder / name


def _write(path: Path, data: bytes) -> None:
    """Put a whole file in its place, through no link that lies there."""
    part = path.with_name(f".insula-{secrets.token_hex(8)}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
