"""A server that plays a script of bytes, and a client of it."""

import asyncio
import json
from collections.abc import Callable

from ai_spine import _http
from tests.client.callers import Caller
from tests.scripted_upstream import Peer, RawServer, Script


def answer(status: int, body: object = None, **headers: str) -> bytes:
    """A whole answer; the connection stays open."""
    content = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(content)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def plays(*steps: bytes | Callable[[Peer], object]) -> Script:
    """Answer each request with the next step; the last one is played for ever."""
    waiting = list(steps)

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            step = waiting.pop(0) if len(waiting) > 1 else waiting[0]
            if isinstance(step, bytes):
                await peer.send(step)
            else:
                await step(peer)
                return

    return script


async def cut(peer: Peer) -> None:
    peer.reset()


async def cut_in_the_middle(peer: Peer) -> None:
    await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{")
    peer.reset()


async def silence(peer: Peer) -> None:
    await peer.gone()


async def drip(peer: Peer) -> None:
    """A body that is always about to end."""
    await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
    for _ in range(100):
        await peer.send(b" ")
        await asyncio.sleep(0.05)


async def flood(peer: Peer) -> None:
    """A body without an end."""
    await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    for _ in range(2 * _http.ANSWER_MAX_BYTES // 1_000_000):
        await peer.send(b"f4240\r\n" + bytes(1_000_000) + b"\r\n")


class Play:
    """A server with a script, and a client of it."""

    def __init__(self, server: RawServer, client: Caller) -> None:
        self.server = server
        self.client = client
        self.call = client.call

    def header(self, name: str) -> list[str]:
        """What each request said under this name."""
        found = []
        for request in self.server.requests:
            head = request.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
            named = dict(line.lower().split(": ", 1) for line in head)
            found.append(named.get(name, ""))
        return found
