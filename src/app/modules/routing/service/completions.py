"""A model call in this process: an order like any other, and its answer as text."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from app.kernel import log
from app.kernel.errors import AppError, BadUpstream, Invalid, TooLarge, TooMany, UpstreamTimeout
from app.modules.auth.api import Principal
from app.modules.routing.api import Completion
from app.modules.routing.domain.answers import Tokens, read_answer
from app.modules.routing.domain.envelope import read_envelope
from app.modules.routing.domain.faults import UpstreamNonsense, retry_after_s
from app.modules.routing.domain.infer.reply import piece_of, refusal_envelope
from app.modules.routing.domain.names import ModelNotFound
from app.modules.routing.service.gateway import Gateway, Served
from app.modules.routing.service.orders import Order
from app.modules.routing.service.plans import Reply
from app.modules.routing.service.registry import Registry
from app.modules.routing.service.strategies import may_use

DEFAULT: Final = "default"
REASON_LIMIT_CHARS: Final = 500
AGAIN_S: Final = 5.0
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class ModelRefused(Invalid):
    """The model's server does not take the prompt; the text is its own."""

    title = "Refused by the model"


class ModelFailed(BadUpstream):
    """The model's server failed; the text is its own."""

    title = "Model failed"


KINDS: Final[dict[int, type[AppError]]] = {
    404: ModelNotFound,
    408: UpstreamTimeout,
    413: TooLarge,
    504: UpstreamTimeout,
}


class ModelCompletions:
    """``default_model`` is what ``default`` means; empty for the first model that is open to the
    caller.
    """

    def __init__(self, gateway: Gateway, registry: Registry, default_model: str) -> None:
        self._gateway = gateway
        self._registry = registry
        self._default_model = default_model

    async def complete(
        self,
        principal: Principal,
        model: str,
        prompt: str,
        *,
        system_prompt: str = "",
        call_key: str = "",
    ) -> Completion:
        principal.require("inference")
        name = await self._name(principal, model)
        messages = [{"role": "user", "content": prompt}]
        if system_prompt:
            messages.insert(0, {"role": "system", "content": system_prompt})
        asked = {"model": name, "messages": messages}
        body = msgspec.json.encode(asked)
        order = Order(principal, "chat/completions", body, read_envelope(body))
        with _known_as(call_key):
            return _completion(await self._gateway.serve(order), name)

    async def _name(self, principal: Principal, model: str) -> str:
        if model not in {"", DEFAULT} or self._registry.find(model):
            return model
        if self._default_model:
            return self._default_model
        for route in await self._registry.ready_list():
            if route.kind == "chat" and may_use(principal, route):
                return route.name
        text = "No chat model is open to this key; GET /v1/models lists those that are."
        raise ModelNotFound(text, param="model")


@contextmanager
def _known_as(call_key: str) -> Iterator[None]:
    """Let what the block leaves behind carry ``call_key``, if it is one."""
    if not call_key:
        yield
        return
    before = log.request_id.set(call_key)
    try:
        yield
    finally:
        log.request_id.reset(before)


def _completion(served: Served, name: str) -> Completion:
    reply = served.reply
    if reply.status != 200:
        raise _refusal(reply)
    found = _decoded(reply.body)
    piece = piece_of(found)
    if piece is not None and piece.error is not None:
        raise ModelFailed(_reason(reply.body))
    if piece is None or not isinstance(found, dict) or not found.get("choices"):
        raise UpstreamNonsense("The model answered with no chat completion.")
    part = read_answer(reply.body)
    tokens = (part.tokens if part else None) or Tokens()
    if served.cache == "hit":
        tokens = Tokens(0, 0)
    model = str(found.get("model") or name)
    return Completion(piece.text, model, served.call.id, tokens.input, tokens.output)


def _refusal(reply: Reply) -> AppError:
    """An upstream's refusal, which the wire passes on as it is, as one of our own kinds."""
    text = _reason(reply.body)
    if reply.status == 429:
        return TooMany(text, retry_after_s=retry_after_s(reply.retry_after, AGAIN_S))
    kind = KINDS.get(reply.status, ModelRefused if reply.status < 500 else ModelFailed)
    return kind(text)


def _reason(body: bytes) -> str:
    told = _decoded(refusal_envelope(body))
    reason = told["error"]["message"] if told else "The model's server did not say why."
    return str(reason)[:REASON_LIMIT_CHARS]


def _decoded(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except UNREADABLE:
        return None
