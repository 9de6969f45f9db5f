"""The hot path of ``/v1``: raw ASGI, bytes in and bytes out, in a written order.

Who is asking, what is asked, the answer, its headers, its bytes. Everything that needs no HTTP is
in ``service/gateway.py``.
"""

import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from litestar.exceptions import MethodNotAllowedException
from litestar.types import Receive, Scope, Send

from app.kernel.errors import Invalid
from app.modules.auth.api import Authenticator, bearer_token
from app.modules.routing.controllers.outlet import Outlet, head_of
from app.modules.routing.controllers.tally import Tally
from app.modules.routing.controllers.warden import Warden
from app.modules.routing.domain.envelope import Surface, read_envelope
from app.modules.routing.ports import Headers
from app.modules.routing.service.gateway import Gateway
from app.modules.routing.service.orders import Order, read_hints

Begin = Callable[[Iterable[tuple[bytes, bytes]]], Headers]


class Wire:
    """The handlers of ``/v1`` that call a model.

    ``keep_alive_s``: the longest silence of a stream before it says that it lives.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        gateway: Gateway,
        tally: Tally,
        warden: Warden,
        *,
        keep_alive_s: float,
    ) -> None:
        self._authenticator = authenticator
        self._gateway = gateway
        self._tally = tally
        self._warden = warden
        self._keep_alive_s = keep_alive_s
        self._begin: Begin | None = None

    def follow(self, begin: Begin) -> None:
        """Have every call from now on enter the trace that its headers name."""
        self._begin = begin

    def handler(self, surface: Surface) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
        """Make the ASGI handler of one surface."""

        async def handle(scope: Scope, receive: Receive, send: Send) -> None:
            await self._handle(surface, scope, receive, send)

        return handle

    async def _handle(self, surface: Surface, scope: Any, receive: Receive, send: Send) -> None:
        started_s = time.perf_counter()
        if scope["method"] != "POST":
            raise MethodNotAllowedException(headers={"allow": "POST"})
        headers = scope["headers"]
        token = bearer_token(headers)
        principal = self._authenticator.recall(token)
        if principal is None:
            principal = await self._authenticator.authenticate(token)
        principal.require("inference")
        hints = read_hints(headers)
        body = await _read_body(receive)
        trace = () if self._begin is None else self._begin(headers)
        order = Order(principal, surface, body, read_envelope(body), hints, started_s, trace)
        with self._warden.watch(receive):
            if order.envelope.stream:
                await self._stream(order, send)
            else:
                await self._whole(order, send)

    async def _whole(self, order: Order, send: Send) -> None:
        served = await self._gateway.serve(order)
        overhead_s = served.call.overhead_s
        self._tally.note_overhead(overhead_s)
        await send(head_of(served, overhead_s))
        await send({"type": "http.response.body", "body": served.reply.body, "more_body": False})

    async def _stream(self, order: Order, send: Send) -> None:
        """Answer with events; while there are none, say now and then that we are here."""
        with Outlet(send, order.surface, self._keep_alive_s) as outlet:
            try:
                served = await self._gateway.serve(order)
                self._tally.note_overhead(served.call.overhead_s)
                await outlet.open(served)
            except Exception as error:
                if not outlet.has_begun:
                    raise
                await outlet.refuse(error)
            await outlet.end()


async def _read_body(receive: Receive) -> bytes:
    """Read the whole body; the door has put the limit on it."""
    message: Any = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        return body
    parts = [body]
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Invalid("The body ended before it was complete.")
        parts.append(message.get("body", b""))
    return b"".join(parts)
