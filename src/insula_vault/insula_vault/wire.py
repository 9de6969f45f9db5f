"""HTTP: tokens, limits, retries, and answers as values or errors."""

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx

from insula_vault.errors import IntegrityError, NotFound, Refused, Unreachable

TIMEOUT_S = 30.0
ATTEMPTS_MAX = 5
FIRST_PAUSE_S = 0.2
PAUSE_MAX_S = 30.0
ANSWER_MAX_BYTES = 64 * 1024 * 1024
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
BUSY = frozenset({502, 503, 504})


@dataclass(slots=True)
class Session:
    """The tokens of a device. They are renewed in place: keep them after use, not before."""

    access_token: str = field(repr=False)
    refresh_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Call:
    """One request. ``is_repeatable``: sending it twice does what sending it once does."""

    method: str
    path: str
    json: Any = None
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    is_repeatable: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that was read to its end. ``headers`` are found in any case of letters."""

    status: int
    headers: httpx.Headers
    content: bytes

    def json(self) -> Any:
        """What the body says, ``None`` when it is no JSON."""
        try:
            return json.loads(self.content)
        except ValueError:
            return None


class Wire:
    """A server and what lets us in. For one thread at a time."""

    def __init__(
        self,
        base_url: str,
        session: Session | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
        timeout_s: float = TIMEOUT_S,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Plain HTTP is refused except to this machine: it would show tokens to everybody."""
        parts = urlsplit(base_url)
        if parts.scheme != "https" and parts.hostname not in LOOPBACK:
            raise ValueError("Use https, or plain http on this machine only.")
        self.session = session
        self._sleep = sleep
        self._client = httpx.Client(
            base_url=base_url,
            transport=transport,
            timeout=timeout_s,
            headers={"accept-encoding": "identity"},
        )

    def close(self) -> None:
        self._client.close()

    def send(self, call: Call) -> Answer:
        """The answer, read. Problems are raised; what may be sent again is, a few times."""
        for attempt in range(ATTEMPTS_MAX):
            is_last = attempt + 1 == ATTEMPTS_MAX
            try:
                answer = self._authorized(call)
            except httpx.TransportError as error:
                if is_last or not call.is_repeatable:
                    raise Unreachable(
                        f"No answer of {call.path}: {type(error).__name__}."
                    ) from None
                self._sleep(_pause_s(attempt, None))
                continue
            # 429 is said before anything is done; the others may come of a proxy, after it.
            is_busy = answer.status in BUSY
            if answer.status != 429 and not (is_busy and call.is_repeatable):
                break
            if not is_last:
                self._sleep(_pause_s(attempt, answer.headers.get("retry-after")))
        if is_busy:
            raise Unreachable(f"{call.path} is not available: {answer.status}.")
        return _checked(answer)

    def json(self, call: Call) -> dict[str, Any]:
        """The object that an answer is."""
        said = self.send(call).json()
        if not isinstance(said, dict):
            raise IntegrityError(f"The answer of {call.path} is no JSON object.")
        return said

    def stream(self, path: str) -> Iterator[bytes]:
        """A body of any size, piece by piece. A broken connection is continued where it broke."""
        have, etag, broken = 0, "", 0
        while True:
            headers = {"range": f"bytes={have}-", "if-range": etag} if have else {}
            try:
                for piece in self._pieces(Call("GET", path, headers=headers), etag):
                    if isinstance(piece, str):
                        etag = piece
                        continue
                    have, broken = have + len(piece), 0
                    yield piece
                return
            except httpx.TransportError as error:
                broken += 1
                if broken == ATTEMPTS_MAX:
                    raise Unreachable(f"{path} broke off: {type(error).__name__}.") from None
                self._sleep(_pause_s(broken, None))

    def _pieces(self, call: Call, etag: str) -> Iterator[str | bytes]:
        """The ETag, then the body."""
        answer = self._client.send(self._request(call), stream=True)
        try:
            if answer.status_code == 401 and self._renew():
                answer.close()
                answer = self._client.send(self._request(call), stream=True)
            if answer.status_code in BUSY or answer.status_code == 429:
                raise httpx.ReadError("busy")
            if answer.status_code not in (200, 206):
                _checked(_read_all(answer, call.path))
            shown = answer.headers.get("etag", "")
            if etag and (answer.status_code != 206 or shown != etag):
                raise Unreachable(f"{call.path} was replaced while it was read: read it again.")
            yield shown
            yield from answer.iter_bytes()
        finally:
            answer.close()

    def _authorized(self, call: Call) -> Answer:
        answer = self._read(call)
        if answer.status == 401 and self._renew():
            answer = self._read(call)
        return answer

    def _read(self, call: Call) -> Answer:
        answer = self._client.send(self._request(call), stream=True)
        try:
            return _read_all(answer, call.path)
        finally:
            answer.close()

    def _request(self, call: Call) -> httpx.Request:
        headers = dict(call.headers)
        if self.session is not None:
            headers["authorization"] = f"Bearer {self.session.access_token}"
        return self._client.build_request(
            call.method,
            call.path,
            params=dict(call.params) or None,
            json=call.json,
            content=call.content,
            headers=headers,
        )

    def _renew(self) -> bool:
        """Trade the refresh token for another pair; False when there is none, or it has ended."""
        session, self.session = self.session, None
        try:
            if session is None or not session.refresh_token:
                return False
            token = {"refresh_token": session.refresh_token}
            answer = self._read(Call("POST", "/api/v1/auth/refresh", json=token))
            said = answer.json()
            if answer.status != 200 or not isinstance(said, dict):
                return False
            session.access_token = str(said["access_token"])
            session.refresh_token = str(said["refresh_token"])
            return True
        finally:
            self.session = session


def _pause_s(attempt: int, retry_after: str | None) -> float:
    """What the server asks for, up to a limit; else twice as long each time, with jitter."""
    if retry_after is not None and retry_after.isdigit():
        return min(PAUSE_MAX_S, float(retry_after))
    # Jitter keeps devices apart; it is no secret.
    return float(FIRST_PAUSE_S * 2**attempt * (0.5 + random.random()))  # noqa: S311


def _read_all(answer: httpx.Response, path: str) -> Answer:
    body = bytearray()
    for piece in answer.iter_bytes():
        body += piece
        if len(body) > ANSWER_MAX_BYTES:
            raise IntegrityError(f"The answer of {path} has no end.")
    return Answer(answer.status_code, answer.headers, bytes(body))


def _checked(answer: Answer) -> Answer:
    """The answer, unless it is a problem (RFC 9457)."""
    if answer.status < 300:
        return answer
    said = answer.json()
    problem = said if isinstance(said, dict) else {}
    kind = str(problem.pop("type", "")).rpartition(":")[2] or "unknown"
    detail = str(problem.pop("detail", "") or "no detail")
    if answer.status == 404:
        raise NotFound(detail)
    raise Refused(answer.status, kind, detail, problem)
