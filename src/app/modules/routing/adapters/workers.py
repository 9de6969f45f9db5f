"""A worker as an upstream: its own client, for its own URL, in its own form."""

from typing import Final

from app.modules.routing.adapters.guarded import GuardedClient
from app.modules.routing.adapters.infer import InferUpstream
from app.modules.routing.adapters.openai import OpenAIUpstream
from app.modules.routing.domain.envelope import Surface
from app.modules.routing.domain.names import base_url
from app.modules.routing.domain.workers import INFER, WorkerTarget
from app.modules.routing.ports import Upstream

SURFACES: Final[frozenset[Surface]] = frozenset({"chat/completions", "completions", "embeddings"})


def open_worker(target: WorkerTarget, *, answer_limit_bytes: int, max_connections: int) -> Upstream:
    """Make the upstream of a worker. Nothing is contacted."""
    is_infer = target.dialect == "infer"
    url = target.endpoint.removesuffix(INFER) if is_infer else base_url(target.endpoint)
    client = GuardedClient(
        target.name,
        url,
        answer_limit_bytes=answer_limit_bytes,
        max_connections=max_connections,
        may_be_private=target.may_be_private,
    )
    if is_infer:
        return InferUpstream(target.name, client)
    return OpenAIUpstream(target.name, client, SURFACES)
