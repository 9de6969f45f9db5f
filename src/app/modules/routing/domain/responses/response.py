"""The Response: an answer with the terms under which it was asked for."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from app.modules.routing.domain.answers import Tokens
from app.modules.routing.domain.responses.chat import Chunk, Trouble
from app.modules.routing.domain.responses.items import Item
from app.modules.routing.domain.responses.request import (
    FunctionTool,
    ReasoningTerms,
    ResponsesRequest,
    TextTerms,
    ToolChoice,
)
from app.modules.routing.domain.responses.usage import ResponsesUsage

ResponseStatus = Literal["in_progress", "completed", "incomplete", "failed"]
Reason = Literal["max_output_tokens", "content_filter"]

# What ends an answer early, in the words of either API; every other reason is an end.
REASONS: Final[Mapping[str, Reason]] = {
    "length": "max_output_tokens",
    "content_filter": "content_filter",
}
# Reasons of OpenRouter's and vLLM's for an answer that was given up.
GIVEN_UP: Final = frozenset({"error", "abort"})
# Servers have tiers of their own, which the API's clients do not know.
TIERS: Final = frozenset({"auto", "default", "flex", "scale", "priority", "fast", "ultrafast"})


class ResponseError(msgspec.Struct, frozen=True):
    """Why a response failed."""

    code: Literal["server_error", "rate_limit_exceeded"]
    message: str

    @classmethod
    def of(cls, trouble: Trouble) -> "ResponseError":
        code: Literal["server_error", "rate_limit_exceeded"] = "server_error"
        if trouble.is_rate_limit:
            code = "rate_limit_exceeded"
        return cls(code, trouble.message)


class IncompleteDetails(msgspec.Struct, frozen=True):
    """Why a response ends in its middle."""

    reason: Reason


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """One response, with every member that the API promises. ``created_at`` is in seconds."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: ResponseStatus
    background: Literal[False] = False
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    model: str
    output: Sequence[Item]
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: ReasoningTerms
    safety_identifier: str | None
    service_tier: str | UnsetType
    store: bool
    temperature: float | None
    text: TextTerms
    tool_choice: str | ToolChoice
    tools: Sequence[FunctionTool]
    top_logprobs: int | None
    top_p: float | None
    truncation: Literal["disabled"] = "disabled"
    usage: ResponsesUsage | UnsetType
    user: str | UnsetType
    metadata: Mapping[str, str]


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an answer beside its output."""

    model: str = ""
    service_tier: str | None = None
    tokens: Tokens | None = None
    finish_reason: str | None = None
    trouble: Trouble | None = None

    def after(self, chunk: Chunk) -> "State":
        """Learn from the next event; what it does not say stays as it was."""
        return State(
            model=self.model or chunk.model,
            service_tier=chunk.service_tier or self.service_tier,
            tokens=chunk.tokens or self.tokens,
            finish_reason=chunk.finish_reason or self.finish_reason,
            trouble=chunk.trouble or self.trouble or _given_up(chunk),
        )

    @property
    def status(self) -> Literal["completed", "incomplete", "failed"]:
        if self.trouble is not None:
            return "failed"
        return "incomplete" if self.finish_reason in REASONS else "completed"


class Draft(msgspec.Struct, frozen=True):
    """What of a response is known before its answer."""

    request: ResponsesRequest
    id: str
    created_s: int

    def response(
        self, status: ResponseStatus, state: State, output: Sequence[Item] = ()
    ) -> Response:
        asked = self.request.members
        reasoning = asked.reasoning or ReasoningTerms()
        reason = REASONS.get(state.finish_reason or "")
        return Response(
            id=self.id,
            created_at=self.created_s,
            status=status,
            error=(
                ResponseError.of(state.trouble) if state.trouble and status == "failed" else None
            ),
            incomplete_details=(
                IncompleteDetails(reason) if reason and status == "incomplete" else None
            ),
            instructions=asked.instructions,
            max_output_tokens=asked.max_output_tokens,
            max_tool_calls=asked.max_tool_calls,
            model=state.model or asked.model,
            output=output,
            parallel_tool_calls=asked.parallel_tool_calls is not False,
            previous_response_id=asked.previous_response_id,
            prompt_cache_key=asked.prompt_cache_key,
            reasoning=ReasoningTerms(reasoning.effort, reasoning.summary),
            safety_identifier=asked.safety_identifier,
            service_tier=state.service_tier if state.service_tier in TIERS else UNSET,
            store=self.request.is_kept,
            temperature=asked.temperature,
            text=asked.text or TextTerms(),
            tool_choice=asked.tool_choice or "auto",
            tools=self.request.tools,
            top_logprobs=asked.top_logprobs,
            top_p=asked.top_p,
            usage=ResponsesUsage.of(state.tokens) if state.tokens else UNSET,
            user=asked.user if asked.user is not None else UNSET,
            metadata=asked.metadata or {},
        )


def _given_up(chunk: Chunk) -> Trouble | None:
    if chunk.finish_reason not in GIVEN_UP:
        return None
    return Trouble("The model's server gave the answer up.", chunk.finish_reason)
