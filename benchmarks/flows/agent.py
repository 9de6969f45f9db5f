"""An agent of next to no cost, in a process of its own: `python -m benchmarks.flows.agent PORT`."""

import asyncio
import json
import sys
from typing import Final

HEALTH: Final = json.dumps({"ready": True}).encode()
OUTPUT: Final = json.dumps({"status": "success", "output": {"message": "done"}}).encode()


class Agent(asyncio.Protocol):
    """Answers every request as soon as it has come whole."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._seen = b""

    def data_received(self, data: bytes) -> None:
        self._seen += data
        while b"\r\n\r\n" in self._seen:
            head, _, rest = self._seen.partition(b"\r\n\r\n")
            size = _length(head)
            if len(rest) < size:
                return
            self._seen = rest[size:]
            body = HEALTH if head.startswith(b"GET") else OUTPUT
            self._transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                % (len(body), body)
            )


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Agent, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
