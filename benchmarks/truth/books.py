"""The books of a soak: what the upstream did, what was billed, and what a budget says of it."""

import json
from dataclasses import dataclass, fields
from typing import Final

from benchmarks.furnish import told
from benchmarks.processes import Server, ask

USAGE: Final = "/api/v1/usage?limit=500"


@dataclass(frozen=True, slots=True)
class Row:
    """What matters of a usage row."""

    id: str
    request_id: str
    is_streamed: bool
    outcome: str
    status: int
    attempts: int
    input_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None
    is_estimated: bool
    cost_nanos: int | None


@dataclass(frozen=True, slots=True)
class Served:
    """What the upstream did for one call: see ``calls.h``."""

    number: int
    asked: int = 0
    whole: int = 0
    refused: int = 0
    broken: int = 0
    cut: int = 0
    status: int = 0
    events: int = 0
    input: int = 0
    output: int = 0
    cached: int = 0
    cut_us: int = 0


@dataclass(frozen=True, slots=True)
class Allowances:
    """What the key's limits say of it: nanos spent of its budget, and calls that it still holds."""

    spent_nanos: int
    running: int


def rows(server: Server) -> list[Row]:
    """Every usage row of the owner, page by page, as any client reads them."""
    found: list[Row] = []
    names = [field.name for field in fields(Row)]
    cursor = ""
    while True:
        page = told(server, USAGE + cursor)
        found += [Row(**{name: item[name] for name in names}) for item in page["items"]]
        if page["next"] is None:
            return found
        cursor = f"&cursor={page['next']}"


def served(upstream: Server) -> dict[int, Served]:
    """By the number of the call."""
    calls = json.loads(ask(upstream.port, "/calls")[1])
    return {call["number"]: Served(**call) for call in calls}


def allowances(server: Server) -> Allowances:
    answer = told(server, "/api/v1/billing/limits", key=server.key)
    used = {limit["name"]: limit["limit"] - limit["left"] for limit in answer["limits"]}
    return Allowances(spent_nanos=used["budget"], running=used["parallel"])
