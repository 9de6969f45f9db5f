"""Every endpoint, once: method, path, what is sent and what is returned."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any, Callable, Mapping

from ai_spine._call import JSON, Call
from ai_spine.exceptions import APIError, ValidationError

PAGE_MAX = 500
FLOW_PAGE_MAX = 100
OFFSET_MAX = 1_000_000
TOKEN_MAX_CHARS = 255
_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")
_TOKEN = re.compile(r"[!-~]+")


def health_check() -> Call[JSON]:
    return _read("/health", an_object)


def get_health_details() -> Call[JSON]:
    return _read("/health/detailed", an_object)


def get_metrics() -> Call[JSON]:
    return _read("/metrics", an_object)


def get_status() -> Call[JSON]:
    return _read("/status", an_object)


def get_current_user() -> Call[JSON]:
    return _read("/api/v1/users/me", an_object)


def check_credits() -> Call[int]:
    return _read("/api/v1/users/me", _credits)


def list_flows(limit: int | None = None, offset: int = 0) -> Call[list[JSON]]:
    return _read("/flows", a_list("flows"), _page(limit, offset, FLOW_PAGE_MAX))


def list_my_flows(limit: int | None = None, offset: int = 0) -> Call[list[JSON]]:
    page = _page(limit, offset, FLOW_PAGE_MAX)
    return _read("/api/v1/flows/my-flows", a_list("flows"), page)


def get_flow(flow_id: str, version: str | None = None) -> Call[JSON]:
    return _read(_path("/flows", flow_id=flow_id), an_object, _given(version=version))


def list_flow_versions(flow_id: str) -> Call[list[JSON]]:
    path = _path("/flows", flow_id=flow_id) + "/versions"
    return _read(path, a_list("versions"))


def create_flow(definition: Mapping[str, Any]) -> Call[JSON]:
    return Call("POST", "/flows", an_object, _body("definition", definition))


def update_flow(flow_id: str, changes: Mapping[str, Any]) -> Call[JSON]:
    path = _path("/flows", flow_id=flow_id)
    return Call("PUT", path, an_object, _body("changes", changes))


def delete_flow(flow_id: str) -> Call[bool]:
    path = _path("/flows", flow_id=flow_id)
    return Call("DELETE", path, _done, if_missing=False)


def execute_flow(
    flow_id: str,
    input_data: Mapping[str, Any],
    metadata: Mapping[str, Any] | None = None,
    *,
    priority: int | None = None,
    timeout: float | None = None,
    version: str | None = None,
    idempotency_key: str | None = None,
) -> Call[JSON]:
    _path("", flow_id=flow_id)
    key = str(uuid.uuid4()) if idempotency_key is None else idempotency_key
    asked: JSON = {"flow_id": flow_id}
    asked["input_data"] = _object("input_data", input_data)
    if metadata:
        asked["metadata"] = _object("metadata", metadata)
    options = {"priority": priority, "timeout": timeout, "version": version}
    asked.update({k: v for k, v in options.items() if v is not None})
    return Call(
        "POST",
        "/flows/execute",
        a_start,
        _body("input_data", asked),
        headers={"Idempotency-Key": _token("idempotency_key", key)},
        retry=True,
    )


def get_execution(execution_id: str) -> Call[JSON]:
    return _read(_path("/executions", execution_id=execution_id), an_object)


def cancel_execution(execution_id: str) -> Call[JSON]:
    path = _path("/executions", execution_id=execution_id) + "/cancel"
    return Call("POST", path, an_object, retry=True)


def list_executions(
    flow_id: str | None = None,
    status: str | None = None,
    limit: int | None = None,
    offset: int = 0,
) -> Call[list[JSON]]:
    if flow_id is not None:
        _path("", flow_id=flow_id)
    params = {**_given(flow_id=flow_id, status=status), **_page(limit, offset)}
    return _read("/executions", a_list("executions"), params)


def get_execution_results(execution_id: str) -> Call[JSON]:
    path = _path("/executions", execution_id=execution_id) + "/results"
    return _read(path, an_object)


def list_messages(
    execution_id: str, limit: int | None = None, offset: int = 0
) -> Call[list[JSON]]:
    path = _path("/messages", execution_id=execution_id)
    return _read(path, a_list("messages"), _page(limit, offset))


def stream_execution(execution_id: str, last_event_id: str = "") -> Call[JSON]:
    headers = {"Accept": "text/event-stream"}
    if last_event_id:
        headers["Last-Event-ID"] = _token("last_event_id", last_event_id)
    path = _path("/executions", execution_id=execution_id) + "/events"
    return Call("GET", path, an_object, headers=headers, retry=True)


def list_agents() -> Call[list[JSON]]:
    return _read("/agents", a_list("agents"))


def list_active_agents() -> Call[list[JSON]]:
    return _read("/agents/active", a_list("agents"))


def list_my_agents() -> Call[list[JSON]]:
    return _read("/api/v1/agents/my-agents", a_list("agents"))


def get_agent(agent_id: str) -> Call[JSON]:
    return _read(_path("/agents", agent_id=agent_id), an_object)


def create_agent(agent_config: Mapping[str, Any]) -> Call[JSON]:
    return Call("POST", "/agents", an_object, _body("agent_config", agent_config))


def delete_agent(agent_id: str) -> Call[bool]:
    path = _path("/agents", agent_id=agent_id)
    return Call("DELETE", path, _done, if_missing=False)


def test_agent(endpoint: str, token: str | None) -> Call[JSON]:
    asked = {"endpoint": endpoint, **_given(token=token)}
    return Call("POST", "/agents/test", an_object, _body("endpoint", asked))


def an_object(said: Any) -> JSON:
    """An answer that is an object; an empty one is an empty object."""
    if said is None:
        return {}
    if not isinstance(said, dict):
        raise APIError("The answer is no JSON object. Check base_url.")
    return said


def a_start(said: Any) -> JSON:
    """An answer that names the execution that was started."""
    if not isinstance(an_object(said).get("execution_id"), str):
        raise APIError("The answer names no execution. Check base_url.")
    started: JSON = said
    return started


def a_list(name: str) -> Callable[[Any], list[JSON]]:
    """An answer that is a list, or an object with the list under ``name``."""

    def read(said: Any) -> list[JSON]:
        found = said.get(name) if isinstance(said, dict) else said
        if not isinstance(found, list) or not all(isinstance(i, dict) for i in found):
            raise APIError(f"The answer has no list of {name}. Check base_url.")
        return found

    return read


def _done(_: Any) -> bool:
    return True


def _credits(said: Any) -> int:
    return int(an_object(said).get("credits") or 0)


def _read(
    path: str,
    returns: Callable[[Any], Any],
    params: Mapping[str, str] | None = None,
) -> Call[Any]:
    return Call("GET", path, returns, params=params or {}, retry=True)


def _given(**values: str | None) -> Mapping[str, str]:
    return {name: value for name, value in values.items() if value is not None}


def _page(
    limit: int | None, offset: int, limit_max: int = PAGE_MAX
) -> Mapping[str, str]:
    if limit is not None:
        _whole("limit", limit, 1, limit_max)
    _whole("offset", offset, 0, OFFSET_MAX)
    numbers = {"limit": limit, "offset": offset}
    return {name: str(value) for name, value in numbers.items() if value}


def _whole(name: str, value: int, low: int, high: int) -> None:
    if not isinstance(value, int) or not low <= value <= high:
        raise ValidationError(f"{name} is a whole number from {low} to {high}.")


def _path(folder: str, **named: str) -> str:
    """``folder`` and the id; an id can never name another path."""
    ((name, value),) = named.items()
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise ValidationError(
            f"{name} is 1 to 100 letters, digits, hyphens and underscores."
        )
    return f"{folder}/{value}"


def _token(name: str, value: str) -> str:
    if not _TOKEN.fullmatch(value) or len(value) > TOKEN_MAX_CHARS:
        raise ValidationError(f"{name} is 1 to 255 visible ASCII characters.")
    return value


def _object(name: str, value: Mapping[str, Any]) -> JSON:
    if not isinstance(value, Mapping):
        raise ValidationError(f"{name} must be a dict, not {type(value).__name__}.")
    return dict(value)


def _body(name: str, value: Mapping[str, Any]) -> bytes:
    body = _object(name, value)
    if not body:
        raise ValidationError(f"{name} is empty.")
    try:
        return json.dumps(body, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValidationError(f"{name} is no JSON: {error}.") from None
