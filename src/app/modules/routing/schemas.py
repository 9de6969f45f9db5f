"""The wire of routing: OpenAI's shapes."""

from typing import Literal

import msgspec

from app.kernel.problems import Problem, Wire
from app.modules.routing.ports import Route

ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    501: "not_supported_error",
}
ERROR_CODES = {
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
        return cls(route.name, route.created_s, route.upstream_name, route.kind)


class ModelList(msgspec.Struct, frozen=True):
    """Every model that this key may use."""

    data: list[ModelRead]
    object: Literal["list"] = "list"


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
