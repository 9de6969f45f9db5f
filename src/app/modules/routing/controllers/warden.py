"""Watches for clients that hang up.

No server tells a handler that is not listening, and listening costs a task. A call that ends
within 10 ms is spared it: there would be nothing left to cut.
"""

import asyncio
from types import TracebackType
from typing import Any, Final

from litestar.types import Receive

ROUND_S: Final = 0.01


class Warden:
    """Goes round every 10 ms while there are calls, and watches those that were there before.

    So a watch begins 10 to 20 ms into its call, and one timer serves all of them.
    """

    def __init__(self) -> None:
        self._new: dict[Watch, None] = {}
        self._seen: dict[Watch, None] = {}
        self._is_going = False

    def watch(self, receive: Receive) -> "Watch":
        """Cancel the body of the ``with`` if the client hangs up, and end the cancellation here."""
        return Watch(self, receive)

    def begin(self, watch: "Watch") -> None:
        self._new[watch] = None
        if not self._is_going:
            self._is_going = True
            asyncio.get_running_loop().call_later(ROUND_S, self._go_round)

    def end(self, watch: "Watch") -> None:
        self._new.pop(watch, None)
        self._seen.pop(watch, None)

    def _go_round(self) -> None:
        for watch in self._seen:
            watch.listen()
        self._seen, self._new = self._new, {}
        self._is_going = bool(self._seen)
        if self._is_going:
            asyncio.get_running_loop().call_later(ROUND_S, self._go_round)


class Watch:
    """The watch over one call."""

    __slots__ = ("_is_gone", "_listener", "_me", "_receive", "_warden")

    def __init__(self, warden: Warden, receive: Receive) -> None:
        self._warden = warden
        self._receive = receive
        self._me: Any = asyncio.current_task()
        self._listener: asyncio.Task[None] | None = None
        self._is_gone = False

    def __enter__(self) -> "Watch":
        self._warden.begin(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> bool:
        self._warden.end(self)
        if self._listener is not None:
            self._listener.remove_done_callback(self._on_gone)
            self._listener.cancel()
        if self._is_gone and kind is asyncio.CancelledError:
            self._me.uncancel()
            return True
        return False

    def listen(self) -> None:
        self._listener = asyncio.create_task(_until_gone(self._receive))
        self._listener.add_done_callback(self._on_gone)

    def _on_gone(self, listener: "asyncio.Task[None]") -> None:
        if not listener.cancelled():
            self._is_gone = True
            self._me.cancel()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
