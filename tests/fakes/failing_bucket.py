"""A bucket that fails in the middle of an upload, and remembers what it was asked."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

from app.adapters.blobs.s3 import S3Options


class FailingBucket(BaseHTTPRequestHandler):
    """Begins an upload, takes its first part, and refuses the second."""

    protocol_version = "HTTP/1.1"
    seen: ClassVar[list[tuple[str, str]]]
    options: ClassVar[S3Options]

    def do_POST(self) -> None:
        self.answer(200, b"<r><UploadId>the-upload</UploadId></r>")

    def do_PUT(self) -> None:
        self.answer(200 if self.path.endswith("partNumber=1") else 403)

    def do_DELETE(self) -> None:
        self.answer(204)

    def answer(self, status: int, body: bytes = b"") -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.seen.append((self.command, self.path))
        self.send_response(status)
        self.send_header("ETag", '"tag"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing on the terminal."""


@contextmanager
def failing_bucket() -> Iterator[type[FailingBucket]]:
    with ThreadingHTTPServer(("127.0.0.1", 0), FailingBucket) as server:
        FailingBucket.seen = []
        endpoint = f"http://127.0.0.1:{server.server_port}"
        FailingBucket.options = S3Options("bucket", endpoint, access_key="a", secret_key="b")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield FailingBucket
        server.shutdown()
        thread.join()
