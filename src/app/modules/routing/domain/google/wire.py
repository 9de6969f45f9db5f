"""The Gemini API's own shapes, as far as they are translated.

After the public reference of ``models.generateContent``, version v1beta. A count of 0 is left out
on the wire, so a missing one means 0 wherever there are counts at all.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from app.modules.routing.domain.messages.reading import ABSENT

# What JSON numbers carry exactly, and what can be written again.
Count = Annotated[int, Meta(ge=0, le=2**53)]


class Blob(msgspec.Struct, frozen=True, rename="camel"):
    """Bytes in base64."""

    mime_type: str = ""
    data: str = ""


class FunctionCall(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """``args`` is a JSON object. Models before Gemini 3 give their calls no ``id``."""

    name: str = ""
    args: msgspec.Raw = ABSENT
    id: str | None = None


class FunctionResponse(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    name: str
    response: dict[str, str | msgspec.Raw]
    id: str | None = None


class Part(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A piece of a turn; one of the kinds is given. ``thought``: the text is reasoning."""

    text: str | None = None
    thought: bool | None = None
    inline_data: Blob | None = None
    function_call: FunctionCall | None = None
    function_response: FunctionResponse | None = None
    thought_signature: str | None = None


class Content(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    role: str | None = None
    parts: list[Part] | None = None


class FunctionDeclaration(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    name: str
    description: str | None = None
    parameters_json_schema: msgspec.Raw = ABSENT


class Tool(msgspec.Struct, frozen=True, rename="camel"):
    function_declarations: list[FunctionDeclaration]


class FunctionCalling(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    mode: str
    allowed_function_names: list[str] | None = None


class ToolConfig(msgspec.Struct, frozen=True, rename="camel"):
    function_calling_config: FunctionCalling


class ThinkingConfig(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A level or a budget in tokens, never both."""

    include_thoughts: bool | None = None
    thinking_budget: int | None = None
    thinking_level: str | None = None


class GenerationConfig(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    candidate_count: int | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop_sequences: list[str] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    response_logprobs: bool | None = None
    logprobs: int | None = None
    response_mime_type: str | None = None
    response_json_schema: msgspec.Raw = ABSENT
    thinking_config: ThinkingConfig | None = None


class GenerateRequest(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    contents: list[Content]
    system_instruction: Content | None = None
    tools: list[Tool] | None = None
    tool_config: ToolConfig | None = None
    generation_config: GenerationConfig | None = None


class ModalityTokens(msgspec.Struct, frozen=True, rename="camel"):
    modality: str = ""
    token_count: Count = 0


class Usage(msgspec.Struct, frozen=True, rename="camel"):
    """Cached tokens are within the prompt's; thoughts are beside the candidates'."""

    prompt_token_count: Count | None = None
    candidates_token_count: Count = 0
    thoughts_token_count: Count = 0
    tool_use_prompt_token_count: Count = 0
    cached_content_token_count: Count = 0
    prompt_tokens_details: list[ModalityTokens] | None = None
    candidates_tokens_details: list[ModalityTokens] | None = None
    cache_tokens_details: list[ModalityTokens] | None = None


class TokenLogprob(msgspec.Struct, frozen=True, rename="camel"):
    token: str = ""
    log_probability: float = 0.0


class TopLogprobs(msgspec.Struct, frozen=True, rename="camel"):
    candidates: list[TokenLogprob] | None = None


class Logprobs(msgspec.Struct, frozen=True, rename="camel"):
    chosen_candidates: list[TokenLogprob] | None = None
    top_candidates: list[TopLogprobs] | None = None


class Candidate(msgspec.Struct, frozen=True, rename="camel"):
    index: Count = 0
    content: Content | None = None
    finish_reason: str | None = None
    finish_message: str | None = None
    logprobs_result: Logprobs | None = None

    @property
    def parts(self) -> list[Part]:
        return (self.content.parts if self.content else None) or []


class PromptFeedback(msgspec.Struct, frozen=True, rename="camel"):
    block_reason: str | None = None
    block_reason_message: str | None = None


class FailureDetail(msgspec.Struct, frozen=True, rename="camel"):
    """One of several kinds: a word for what is wrong, or how long to wait, as ``34.5s``."""

    reason: str | None = None
    retry_delay: str | None = None


class Failure(msgspec.Struct, frozen=True, rename="camel"):
    """``status`` is a word such as ``RESOURCE_EXHAUSTED``, ``code`` the HTTP status."""

    code: int = 0
    message: str = ""
    status: str = ""
    details: list[FailureDetail] | None = None


class GenerateAnswer(msgspec.Struct, frozen=True, rename="camel"):
    """A whole answer, or one event of a stream. ``error`` stands alone."""

    candidates: list[Candidate] | None = None
    prompt_feedback: PromptFeedback | None = None
    usage_metadata: Usage | None = None
    response_id: str | None = None
    error: Failure | None = None
