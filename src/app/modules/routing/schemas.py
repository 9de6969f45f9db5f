"""The wire of routing: OpenAI's shapes."""

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from app.kernel.problems import Problem, Wire
from app.modules.routing.domain.cards import Quality
from app.modules.routing.domain.choice import Candidate, Policy, Reason
from app.modules.routing.domain.messages.from_chat import message_error
from app.modules.routing.domain.names import kind_of
from app.modules.routing.models import ModelRow
from app.modules.routing.ports import Route, Target

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Capability = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]

ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    501: "not_supported_error",
}
ERROR_CODES = {
    "budget-spent": "insufficient_quota",
    "limit-reached": "rate_limit_exceeded",
    "invalid-credentials": "invalid_api_key",
    "body-too-large": "request_too_large",
}


class ModelRead(msgspec.Struct, frozen=True):
    """One model. ``created`` is in seconds, as OpenAI has it."""

    id: str
    created: int
    owned_by: str
    kind: str
    object: Literal["model"] = "model"

    @classmethod
    def of(cls, route: Route) -> "ModelRead":
        return cls(route.name, route.created_s, route.targets[0].source.name, route.kind)


class ModelList(msgspec.Struct, frozen=True):
    """Every model that this key may use."""

    data: list[ModelRead]
    object: Literal["list"] = "list"


class TargetPut(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One place of a name. Time-outs in seconds; left out, the installation's own hold."""

    upstream: str
    model: str
    weight: Annotated[int, Meta(ge=1, le=1000)] = 1
    connect_timeout_s: Seconds | None = None
    first_byte_timeout_s: Seconds | None = None
    idle_timeout_s: Seconds | None = None
    quality: Quality = "good"
    capabilities: Annotated[list[Capability], Meta(max_length=16)] = []
    context_tokens: Annotated[int, Meta(ge=0)] = 0

    def row(self, name: str, position: int, deadline_s: float | None) -> ModelRow:
        return ModelRow(
            name=name,
            upstream=self.upstream,
            upstream_model=self.model,
            kind=kind_of(self.model),
            source="manual",
            position=position,
            weight=self.weight,
            connect_timeout_s=self.connect_timeout_s,
            first_byte_timeout_s=self.first_byte_timeout_s,
            idle_timeout_s=self.idle_timeout_s,
            deadline_s=deadline_s,
            quality=self.quality,
            capabilities=",".join(sorted(self.capabilities)),
            context_tokens=self.context_tokens,
        )


class AliasPut(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a name leads. ``deadline_s``: for a call to begin its answer, with all fallbacks."""

    targets: Annotated[list[TargetPut], Meta(min_length=1, max_length=32)]
    policy: Policy = "ordered"
    deadline_s: Seconds | None = None

    def rows(self, name: str) -> list[ModelRow]:
        return [t.row(name, index, self.deadline_s) for index, t in enumerate(self.targets)]


class PriceRead(msgspec.Struct, frozen=True):
    """Micro-units of ``currency`` for a million tokens."""

    version: str
    currency: str
    input_micros: int
    output_micros: int


class TargetRead(msgspec.Struct, frozen=True):
    upstream: str
    model: str
    weight: int
    price: PriceRead | None

    @classmethod
    def of(cls, target: Target) -> "TargetRead":
        price = target.price
        shown = price and PriceRead(
            price.version, price.currency, price.input_micros, price.output_micros
        )
        return cls(target.source.name, target.model, target.weight, shown or None)


class AliasRead(msgspec.Struct, frozen=True):
    name: str
    policy: Policy
    deadline_s: float
    targets: list[TargetRead]

    @classmethod
    def of(cls, route: Route) -> "AliasRead":
        targets = [TargetRead.of(target) for target in route.targets]
        return cls(route.name, route.policy, route.deadline_s, targets)


class CachePut(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long equal requests of the calling key are answered from the cache; 0 ends that."""

    ttl_s: Annotated[int, Meta(ge=0, le=86_400)]


class ReasonRead(msgspec.Struct, frozen=True):
    upstream: str
    model: str
    verdict: str
    reason: str
    score: float | None


class ExplanationRead(msgspec.Struct, frozen=True):
    """Where a call would go now: ``order`` is the targets to be tried, the best first."""

    model: str
    policy: Policy
    order: list[TargetRead]
    reasons: list[ReasonRead]
    category: str | None = None
    strategy: str | None = None

    @classmethod
    def of(
        cls,
        route: Route,
        targets: Sequence[Target],
        candidates: Sequence[Candidate],
        reasons: Sequence[Reason],
    ) -> "ExplanationRead":
        return cls(
            model=route.name,
            policy=route.policy,
            order=[TargetRead.of(target) for target in targets],
            reasons=[_reason(candidates, reason) for reason in reasons],
        )


def _reason(candidates: Sequence[Candidate], reason: Reason) -> ReasonRead:
    found = candidates[reason.index]
    return ReasonRead(found.upstream, found.model, reason.verdict, reason.text, reason.score)


def openai_error(problem: Problem) -> Wire:
    """Render a failure as OpenAI does, with our request id beside it."""
    default = "server_error" if problem.status >= 500 else "invalid_request_error"
    error = {
        "message": problem.detail,
        "type": ERROR_TYPES.get(problem.status, default),
        "param": problem.extra.get("param"),
        "code": ERROR_CODES.get(problem.code, problem.code.replace("-", "_")),
        "request_id": problem.request_id,
    }
    return Wire(msgspec.json.encode({"error": error}), "application/json")


def anthropic_error(problem: Problem) -> Wire:
    """Render a failure as Anthropic does, for callers of ``/v1/messages``."""
    return Wire(message_error(problem.status, openai_error(problem).body), "application/json")
