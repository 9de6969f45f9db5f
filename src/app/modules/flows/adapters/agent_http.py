"""HTTP to agents, whose URLs users chose.

What is known of a failed call decides what may be done next. Until the request is on its way the
agent cannot have done anything; from then on only its own answer says whether it has.
"""

import asyncio
import re
from collections.abc import Mapping
from typing import Any, Final, cast

import aiohttp
import msgspec
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import StreamWriter
from aiohttp.payload import Payload
from yarl import URL

from app.modules.flows.domain.depths import DEPTH_LIMIT, is_too_deep
from app.modules.flows.ports import AgentAddress, AgentBroken, AgentCall, AgentRefused, AgentSilent
from app.outbound.sockets import guarded_socket

CONNECT_S: Final = 10.0
# Most servers keep an idle connection for 2 s and longer. One that is closed in the moment in which
# it is used again costs a call, because nobody knows whether the request was read.
KEEP_S: Final = 1.5
# As many as nodes may be at work at once.
CONNECTIONS_LIMIT: Final = 4096
REASON_LIMIT_BYTES: Final = 16_384
REASON_LIMIT_CHARS: Final = 500
REASON_WITHIN_S: Final = 1.0
# Where servers say what is wrong; the first of them that is a text counts.
REASONS: Final = ("error_message", "detail", "message", "error")
# Control characters, and those that show a text in another order, or hide a part of it.
UNREADABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]+")
HEADERS: Final = {
    "accept": "application/json",
    "accept-encoding": "identity",
    "user-agent": "insula",
}


class _Body(Payload):
    """Bytes that know whether they are on their way."""

    _value: bytes

    def __init__(self, whole: bytes) -> None:
        super().__init__(whole, content_type="application/json")
        self._size = len(whole)
        self.is_sent = False

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self._value.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        # Lets the loop see what has arrived: perhaps that the agent has closed a kept connection.
        await asyncio.sleep(0)
        transport = cast(StreamWriter, writer).transport
        # The writer puts nothing on a connection that is closing.
        self.is_sent = transport is not None and not transport.is_closing()
        await writer.write(self._value)


class _Request(msgspec.Struct, frozen=True):
    """``body`` is ``None`` where nothing is asked but to be told."""

    method: str
    path: str
    headers: dict[str, str] = {}
    body: _Body | None = None

    def may_be_done(self, error: Exception) -> bool:
        """Whether the agent may have read it, though the answer to it was an error."""
        if self.body is not None:
            return self.body.is_sent
        return not isinstance(error, aiohttp.ClientConnectorError)


class AgentHttp:
    """``answer_limit_bytes`` is how much an agent may answer.

    Agents that may lie in private networks have connections of their own.
    """

    def __init__(self, answer_limit_bytes: int) -> None:
        self._answer_limit_bytes = answer_limit_bytes
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    async def execute(self, agent: AgentAddress, call: AgentCall, *, within_s: float) -> Any:
        try:
            body = msgspec.json.encode(call)
        except RecursionError:
            raise AgentRefused("The node's input is nested too deep to be sent.") from None
        key = f"{call.execution_id}:{call.node_id}"
        request = _Request("POST", "execute", {"idempotency-key": key}, _Body(body))
        answer = await self._ask(agent, request, within_s)
        if answer.get("status") == "error":
            reason = _readable(answer.get("error_message"), agent) or "it does not say why."
            raise AgentRefused(f"{_name(agent)} gave up: {reason}")
        return answer.get("output", answer)

    async def health(self, agent: AgentAddress, *, within_s: float) -> Mapping[str, Any]:
        return await self._ask(agent, _Request("GET", "health"), within_s)

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()

    async def _ask(self, agent: AgentAddress, request: _Request, within_s: float) -> dict[str, Any]:
        """Send, and read the object that is answered with success."""
        try:
            async with asyncio.timeout(within_s):
                response = await self._send(agent, request)
                try:
                    return await self._answer(agent, response)
                finally:
                    # Gives a connection back that was read to its end, and cuts any other.
                    response.release() if response.content.at_eof() else response.close()
        except TimeoutError as error:
            if request.may_be_done(error):
                raise AgentSilent(f"{_name(agent)} did not answer in {within_s:g} s.") from None
            raise AgentRefused(f"{_name(agent)} cannot be reached in time.") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # The kind of failure, and not its text, which may hold an address.
            kind = type(getattr(error, "os_error", error)).__name__
            if request.may_be_done(error):
                raise AgentBroken(f"{_name(agent)} broke off ({kind}).") from error
            raise AgentRefused(f"{_name(agent)} cannot be reached ({kind}).") from error

    async def _send(self, agent: AgentAddress, request: _Request) -> aiohttp.ClientResponse:
        """Send, and wait for the head of the answer."""
        try:
            return await self._send_once(agent, request)
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
            if request.may_be_done(error):
                raise
        # The agent has closed a connection that was kept, before anything went over it.
        return await self._send_once(agent, request)

    async def _send_once(self, agent: AgentAddress, request: _Request) -> aiohttp.ClientResponse:
        known = {} if agent.token is None else {"authorization": f"Bearer {agent.token}"}
        return await self._session(may_be_private=agent.may_be_private).request(
            request.method,
            URL(f"{agent.endpoint}/{request.path}", encoded=True),
            data=request.body,
            headers=request.headers | known,
            allow_redirects=False,
            timeout=self._timeout,
        )

    def _session(self, *, may_be_private: bool) -> aiohttp.ClientSession:
        found = self._sessions.get(may_be_private)
        if found is None:
            found = self._sessions[may_be_private] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=CONNECTIONS_LIMIT,
                    keepalive_timeout=KEEP_S,
                    ttl_dns_cache=10,
                    socket_factory=guarded_socket("agents", may_be_private=may_be_private),
                ),
                headers=HEADERS,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return found

    async def _answer(
        self, agent: AgentAddress, response: aiohttp.ClientResponse
    ) -> dict[str, Any]:
        if not 200 <= response.status < 300:
            reason = await _reason(agent, response)
            text = f"{_name(agent)} answered {response.status}"
            raise AgentRefused(f"{text}: {reason}" if reason else f"{text}.")
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise AgentBroken(f"{_name(agent)} answered compressed, which it was not asked to.")
        body = await _read(response, self._answer_limit_bytes)
        if body is None:
            limit = self._answer_limit_bytes
            raise AgentBroken(f"{_name(agent)} answered more than {limit:,} bytes.")
        return _object(agent, body)


async def _read(response: aiohttp.ClientResponse, limit_bytes: int) -> bytearray | None:
    """The whole body; ``None`` where it is longer than the limit."""
    whole = bytearray()
    if (response.content_length or 0) > limit_bytes:
        return None
    async for part in response.content.iter_any():
        whole += part
        if len(whole) > limit_bytes:
            return None
    return whole


def _object(agent: AgentAddress, body: bytearray) -> dict[str, Any]:
    try:
        answer = msgspec.json.decode(body)
    except RecursionError:
        raise _too_deep(agent) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise AgentBroken(f"{_name(agent)} answered what is no JSON.") from None
    if not isinstance(answer, dict):
        raise AgentBroken(f"{_name(agent)} answered no JSON object.")
    # To count is quick, and most answers are done with it.
    if body.count(b"[") + body.count(b"{") > DEPTH_LIMIT and is_too_deep(answer):
        raise _too_deep(agent)
    return answer


def _too_deep(agent: AgentAddress) -> AgentBroken:
    text = f"{_name(agent)} answered JSON that is nested deeper than {DEPTH_LIMIT} levels."
    return AgentBroken(text)


async def _reason(agent: AgentAddress, response: aiohttp.ClientResponse) -> str:
    """What a refusal says, as far as it is a text and comes soon."""
    try:
        async with asyncio.timeout(REASON_WITHIN_S):
            body = await _read(response, REASON_LIMIT_BYTES)
    except (aiohttp.ClientError, OSError, TimeoutError):
        return ""
    try:
        said = msgspec.json.decode(body or b"")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    texts = [said.get(name) for name in REASONS] if isinstance(said, dict) else [said]
    return next((text for one in texts if (text := _readable(one, agent))), "")


def _readable(said: Any, agent: AgentAddress) -> str:
    """A text of an agent's as others may see it: one line, short, and without its token."""
    if not isinstance(said, str):
        return ""
    hidden = said.replace(agent.token, "***") if agent.token else said
    return UNREADABLE.sub(" ", hidden[: 2 * REASON_LIMIT_CHARS]).strip()[:REASON_LIMIT_CHARS]


def _name(agent: AgentAddress) -> str:
    return f"The agent {agent.agent_id!r}"
