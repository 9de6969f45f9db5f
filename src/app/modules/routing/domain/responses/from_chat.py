"""A whole chat completion, as a Response."""

import msgspec

from app.modules.routing.domain.responses.chat import Chunk, read_chunk
from app.modules.routing.domain.responses.ids import item_id, made_call_id
from app.modules.routing.domain.responses.items import (
    FunctionCall,
    Item,
    Message,
    OutputText,
    Part,
    Reasoning,
    ReasoningText,
    Refusal,
)
from app.modules.routing.domain.responses.request import ResponsesRequest
from app.modules.routing.domain.responses.response import Draft, State


def response_answer(
    chat_body: bytes, request: ResponsesRequest, response_id: str, created_s: int
) -> bytes:
    """Turn a chat completion into the Response object named ``response_id``.

    ``UpstreamNonsense`` for what is no chat completion. One that tells of an error is a Response
    that failed.
    """
    chunk = read_chunk(chat_body, is_whole=True)
    state = State().after(chunk)
    response = Draft(request, response_id, created_s).response(
        state.status, state, _output(chunk, state, response_id)
    )
    return msgspec.json.encode(response)


def _output(chunk: Chunk, state: State, response_id: str) -> list[Item]:
    """Thoughts, words, calls: in the order in which models produce them."""
    said, items = chunk.said, list[Item]()
    if said.thoughts:
        thought = ReasoningText(said.thoughts)
        items.append(Reasoning(id=item_id(Reasoning, response_id, 0), content=[thought]))
    parts: list[Part] = []
    if said.text:
        parts.append(OutputText(said.text, logprobs=chunk.logprobs))
    if said.refusal:
        parts.append(Refusal(said.refusal))
    if parts:
        made = item_id(Message, response_id, len(items))
        items.append(Message(id=made, role="assistant", content=parts))
    for place, call in enumerate(said.tool_calls or (), len(items)):
        items.append(
            FunctionCall(
                id=item_id(FunctionCall, response_id, place),
                call_id=call.id or made_call_id(response_id, place),
                name=call.name,
                arguments=call.arguments,
            )
        )
    if items and state.status != "completed":
        items[-1] = msgspec.structs.replace(items[-1], status="incomplete")
    return items
