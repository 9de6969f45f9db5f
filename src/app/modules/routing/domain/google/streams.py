"""A stream of the Gemini API, as a stream of chat completion chunks."""

from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from app.modules.routing.domain.events import DONE, EventReader, event
from app.modules.routing.domain.faults import UpstreamNonsense
from app.modules.routing.domain.google.answers import (
    Trouble,
    chat_logprobs,
    chat_usage,
    finish_of,
    id_of,
    read_generated,
    said_in,
    tool_call,
    trouble_of,
)
from app.modules.routing.domain.google.chat import (
    ChatError,
    ChatUsage,
    Choice,
    Completion,
    ErrorAnswer,
    Said,
    ToolCall,
)
from app.modules.routing.domain.google.wire import Candidate, GenerateAnswer

# As many as a request may ask for.
CANDIDATES_LIMIT: Final = 128


class _Progress:
    """How far one candidate has come."""

    __slots__ = ("calls", "is_finished")

    def __init__(self) -> None:
        self.calls = 0
        self.is_finished = False


class ChatFromGoogle:
    """Translates the events of one answer, wherever the chunks of the stream are cut.

    Gemini has no closing mark: its stream ends with the connection. So ``finish`` is to be called
    at the end; it adds the usage, and ``[DONE]`` if every candidate has finished. An error is the
    last event, after the usage; its ``code`` is a status, as OpenRouter has it.
    """

    __slots__ = ("_created_s", "_id", "_is_over", "_model", "_progress", "_reader", "_usage")

    def __init__(self, model: str, created_s: int = 0) -> None:
        self._model = model
        self._created_s = created_s
        self._id = ""
        self._reader = EventReader()
        self._progress: dict[int, _Progress] = {}
        self._usage: ChatUsage | UnsetType = UNSET
        self._is_over = False

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes; return the events that they amount to."""
        out = []
        for found in self._reader.feed(chunk):
            if self._is_over:
                break
            out.append(self._event(found.data))
        return b"".join(out)

    def finish(self) -> bytes:
        """Return what is left when the stream has ended, an event without its empty line too."""
        rest = self.feed(b"\n\n")
        if self._is_over:
            return rest
        is_whole = all(found.is_finished for found in self._progress.values())
        end = DONE if self._progress and is_whole else b""
        return rest + self._told_usage() + end

    def _event(self, data: bytes) -> bytes:
        try:
            answer = read_generated(data)
            return self._translated(answer, data)
        except UpstreamNonsense as error:
            return self._error(Trouble(502, "upstream_nonsense", str(error)))

    def _translated(self, answer: GenerateAnswer, data: bytes) -> bytes:
        self._id = self._id or id_of(answer, data)
        usage = chat_usage(answer.usage_metadata)
        if usage is not UNSET:
            self._usage = usage
        trouble = trouble_of(answer)
        if trouble is not None:
            return self._error(trouble)
        return b"".join([self._candidate(found) for found in answer.candidates or ()])

    def _error(self, trouble: Trouble) -> bytes:
        self._is_over = True
        error = ChatError(trouble.message, trouble.word, trouble.status)
        return self._told_usage() + event(msgspec.json.encode(ErrorAnswer(error)))

    def _told_usage(self) -> bytes:
        """The chunk that has nothing but the usage; nothing where the server has told none."""
        return b"" if self._usage is UNSET else self._chunk([], self._usage)

    def _candidate(self, candidate: Candidate) -> bytes:
        """The chunks of one candidate: its role at first, what it says, and why it stopped."""
        chunks = []
        progress = self._progress.get(candidate.index)
        if progress is None:
            if len(self._progress) >= CANDIDATES_LIMIT:
                raise UpstreamNonsense(f"The server sent more than {CANDIDATES_LIMIT} candidates.")
            self._progress[candidate.index] = progress = _Progress()
            first = Said(role="assistant", content="", refusal=None)
            chunks.append(Choice(candidate.index, delta=first))
        said = said_in(candidate.parts, self._calls(candidate, progress))
        logprobs = chat_logprobs(candidate.logprobs_result)
        if said != Said() or logprobs is not None:
            chunks.append(Choice(candidate.index, delta=said, logprobs=logprobs))
        reason = finish_of(candidate, has_calls=progress.calls > 0)
        if reason is not None and not progress.is_finished:
            progress.is_finished = True
            chunks.append(Choice(candidate.index, delta=Said(), finish_reason=reason))
        return b"".join([self._chunk([choice]) for choice in chunks])

    def _calls(self, candidate: Candidate, progress: _Progress) -> list[ToolCall]:
        calls = []
        for part in candidate.parts:
            if part.function_call is not None:
                call_id = f"call_{self._id}_{candidate.index}_{progress.calls}"
                calls.append(tool_call(part, call_id, progress.calls))
                progress.calls += 1
        return calls

    def _chunk(self, choices: list[Choice], usage: ChatUsage | UnsetType = UNSET) -> bytes:
        name, kind = f"chatcmpl-{self._id}", "chat.completion.chunk"
        chunk = Completion(name, kind, self._created_s, self._model, choices, usage)
        return event(msgspec.json.encode(chunk))
