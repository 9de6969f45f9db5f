"""The same pass-through as a handler of Litestar's: what the framework costs, and nothing else."""

from litestar import Litestar, asgi
from litestar.types import Receive, Scope, Send

from benchmarks.reference import app as pass_through


@asgi(["/v1/chat/completions", "/health"], copy_scope=False)
async def handle(scope: Scope, receive: Receive, send: Send) -> None:
    await pass_through(scope, receive, send)


app = Litestar(
    [handle],
    on_startup=[pass_through.open],
    on_shutdown=[pass_through.close],
    openapi_config=None,
)
