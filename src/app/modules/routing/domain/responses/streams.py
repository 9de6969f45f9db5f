"""A stream of chat completion chunks, as the events of a Response."""

import msgspec

from app.modules.routing.domain.events import Event, EventReader
from app.modules.routing.domain.faults import UpstreamNonsense
from app.modules.routing.domain.responses.chat import Chunk, Trouble, read_chunk
from app.modules.routing.domain.responses.events import (
    Completed,
    Created,
    Ending,
    ErrorEvent,
    Failed,
    Incomplete,
    InProgress,
    ResponsesEvent,
    written,
)
from app.modules.routing.domain.responses.output import Output
from app.modules.routing.domain.responses.request import ResponsesRequest
from app.modules.routing.domain.responses.response import Draft, Response, State

CUT = "The model's server ended its stream before it was complete."


class ResponsesFromChat:
    """Translates one stream. Its last event is ``response.completed|incomplete|failed``.

    ``response`` is what that event carried, ``None`` until then. Numbers begin at 0 and have no
    gap, and every id is made of ``response_id``: the same stream always gives the same events,
    however it is cut into chunks.
    """

    __slots__ = ("_draft", "_number", "_output", "_reader", "_state", "response")

    def __init__(self, request: ResponsesRequest, response_id: str, created_s: int) -> None:
        self._draft = Draft(request, response_id, created_s)
        self._reader = EventReader()
        self._output = Output(response_id)
        self._state = State()
        self._number = 0
        self.response: Response | None = None

    @property
    def answer(self) -> bytes:
        """The final Response, as it is kept; ``b""`` until there is one."""
        return b"" if self.response is None else msgspec.json.encode(self.response)

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes; return the events that they amount to.

        ``AnswerTooLarge`` when there is no end to it.
        """
        return b"".join([self._on(found) for found in self._reader.feed(chunk)])

    def finish(self) -> bytes:
        """The server's stream has ended: without its closing mark, the response has failed."""
        said = self.feed(b"\n\n")
        return said if self.response is not None else said + self._fail(Trouble(CUT))

    def _on(self, found: Event) -> bytes:
        if self.response is not None:
            return b""
        if found.is_done:
            return self._end()
        try:
            chunk = read_chunk(found.data)
        except UpstreamNonsense as error:
            return self._fail(Trouble(str(error)))
        self._state = self._state.after(chunk)
        if self._state.trouble is not None:
            return self._fail(self._state.trouble)
        return self._begin() + self._write(*self._output_events(chunk))

    def _output_events(self, chunk: Chunk) -> list[ResponsesEvent]:
        said = chunk.said
        events: list[ResponsesEvent] = []
        if said.thoughts:
            events += self._output.think(said.thoughts)
        if said.text:
            events += self._output.say(said.text, chunk.logprobs)
        if said.refusal:
            events += self._output.refuse(said.refusal)
        for piece in said.tool_calls or ():
            events += self._output.call(piece)
        return events

    def _begin(self) -> bytes:
        if self._number:
            return b""
        response = self._draft.response("in_progress", self._state)
        return self._write(Created(response), InProgress(response))

    def _end(self) -> bytes:
        status = self._state.status
        begun = self._begin()
        is_whole = status == "completed"
        closed = self._write(*self._output.end("completed" if is_whole else "incomplete"))
        response = self._draft.response(status, self._state, self._output.items)
        return (
            begun + closed + self._close(Completed(response) if is_whole else Incomplete(response))
        )

    def _fail(self, trouble: Trouble) -> bytes:
        begun = self._begin()
        self._state = msgspec.structs.replace(self._state, trouble=trouble)
        self._output.stop("incomplete")
        told = self._write(ErrorEvent(trouble.code, trouble.message, trouble.param))
        response = self._draft.response("failed", self._state, self._output.items)
        return begun + told + self._close(Failed(response))

    def _close(self, ending: Ending) -> bytes:
        self.response = ending.response
        return self._write(ending)

    def _write(self, *events: ResponsesEvent) -> bytes:
        first = self._number
        self._number += len(events)
        return b"".join([written(said, number) for number, said in enumerate(events, first)])
