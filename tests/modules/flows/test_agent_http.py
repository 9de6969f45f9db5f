"""Agents over HTTP: what they are sent, what counts as an answer, and what none of them can do."""

import asyncio
import resource
import socket
import time

import pytest

from app.modules.flows.adapters import agent_http
from app.modules.flows.adapters.agent_http import AgentHttp
from app.modules.flows.ports import AgentAddress, AgentBroken, AgentCall, AgentRefused, AgentSilent
from tests.modules.flows.scripted_agent import (
    HOSTILE,
    agent_server,
    announces_huge,
    bombs,
    continues,
    cuts_keep_alive,
    dies,
    endless_head,
    good,
    hangs_up,
    huge,
    redirects,
    says,
    slow,
    slow_body,
)
from tests.scripted_upstream import raw_server
from tests.waiting import until

LIMIT_BYTES = 1024 * 1024
TOKEN = "token-of-the-agent"
CALL = AgentCall("execution-1", "review/ask", {"question": "why"}, {"max_turns": 3})


@pytest.fixture
async def agent():
    async with agent_server() as server:
        yield server


@pytest.fixture
async def http():
    opened = AgentHttp(LIMIT_BYTES)
    yield opened
    await opened.close()


def address_of(url: str, *, may_be_private: bool = True, token: str | None = TOKEN) -> AgentAddress:
    return AgentAddress("helper", url, token, may_be_private)


@pytest.fixture
def address(agent) -> AgentAddress:
    return address_of(agent.url)


@pytest.fixture
def execute(http, address):
    async def ask(within_s: float = 10.0):
        return await http.execute(address, CALL, within_s=within_s)

    return ask


class TestExecute:
    async def test_sends_what_the_contract_says(self, execute, agent):
        await execute()

        ((path, headers, body),) = agent.calls
        assert path == "/execute"
        assert body == {
            "execution_id": "execution-1",
            "node_id": "review/ask",
            "input": {"question": "why"},
            "config": {"max_turns": 3},
        }
        assert headers["content-type"] == "application/json"

    async def test_names_the_node_so_that_the_agent_does_it_once(self, execute, agent):
        await execute()

        assert agent.calls[0].key == "execution-1:review/ask"

    async def test_sends_the_token_as_a_bearer(self, execute, agent):
        await execute()

        assert agent.calls[0].headers["authorization"] == f"Bearer {TOKEN}"

    async def test_sends_no_authorization_without_a_token(self, http, agent):
        await http.execute(address_of(agent.url, token=None), CALL, within_s=10)

        assert "authorization" not in agent.calls[0].headers

    async def test_goes_below_the_path_of_the_endpoint(self, http, agent):
        with pytest.raises(AgentRefused, match="404"):
            await http.execute(address_of(agent.url + "/deeper"), CALL, within_s=10)

        assert agent.calls == []

    async def test_sends_more_than_a_megabyte(self, http, address, agent):
        call = AgentCall("e", "n", {"text": "x" * 3 * LIMIT_BYTES}, {})

        await http.execute(address, call, within_s=10)

        assert agent.calls[0].body["input"] == call.input

    async def test_does_not_send_what_is_nested_too_deep(self, http, address, agent):
        nested: list = []
        for _ in range(100_000):
            nested = [nested]

        with pytest.raises(AgentRefused, match="too deep"):
            await http.execute(address, AgentCall("e", "n", {"x": nested}, {}), within_s=10)

        assert agent.calls == []

    @pytest.mark.parametrize("output", [{"a": [1, None]}, ["list"], "text", 1.5, False, None])
    async def test_answers_the_output(self, execute, agent, output):
        agent.answer = lambda call: output

        assert await execute() == output

    async def test_answers_the_whole_where_there_is_no_output(self, execute, agent):
        agent.behaviour = says({"verdict": "fine"})

        assert await execute() == {"verdict": "fine"}

    async def test_keeps_a_number_of_any_length(self, execute, agent):
        agent.behaviour = says(b'{"output": 123456789012345678901234567890}')

        assert await execute() == 123456789012345678901234567890

    async def test_keeps_the_connection(self, http):
        async def script(peer):
            for _ in range(2):
                await peer.request()
                await peer.send(b'HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n{"output": 1}')

        async with raw_server(script) as server:
            address = address_of(f"http://127.0.0.1:{server.port}")
            await http.execute(address, CALL, within_s=10)
            await http.execute(address, CALL, within_s=10)

        assert server.accepted == 1

    async def test_is_cut_with_its_caller(self, execute, agent):
        agent.behaviour = slow
        call = asyncio.create_task(execute())
        await until(lambda: agent.open)

        call.cancel()

        await until(lambda: not agent.open)
        assert agent.cut == 1


class TestRefused:
    """The agent has not done it."""

    async def test_by_the_agent_itself(self, execute, agent):
        agent.behaviour = says({"status": "error", "error_message": "No such client."})

        with pytest.raises(AgentRefused, match=r"^The agent 'helper' gave up: No such client\.$"):
            await execute()

    async def test_by_the_agent_without_a_word(self, execute, agent):
        agent.behaviour = says({"status": "error", "error_message": {"a": 1}})

        with pytest.raises(AgentRefused, match="does not say why"):
            await execute()

    @pytest.mark.parametrize("status", [300, 304, 400, 401, 404, 429, 500, 503])
    async def test_by_a_status(self, execute, agent, status):
        agent.behaviour = says(b"", status=status)

        with pytest.raises(AgentRefused, match=rf"^The agent 'helper' answered {status}\.$"):
            await execute()

    @pytest.mark.parametrize(
        "body", [{"detail": "full"}, {"error": {"code": 1}, "message": "full"}, "full"]
    )
    async def test_says_what_the_agent_says(self, execute, agent, body):
        agent.behaviour = says(body, status=503)

        with pytest.raises(AgentRefused, match=r"503: full$"):
            await execute()

    async def test_does_not_wait_for_a_reason_that_does_not_come(self, http, monkeypatch):
        monkeypatch.setattr(agent_http, "REASON_WITHIN_S", 0.05)

        async def script(peer):
            await peer.request()
            await peer.send(b"HTTP/1.1 500 Oh\r\ncontent-length: 99\r\n\r\n{")
            await peer.gone()

        async with raw_server(script) as server:
            address = address_of(f"http://127.0.0.1:{server.port}")
            with pytest.raises(AgentRefused, match="answered 500"):
                await http.execute(address, CALL, within_s=10)

    async def test_is_told_in_one_short_line(self, execute, agent):
        said = "one\r\ntwo\x00\x1b[31m\u202ethree" + "!" * 10_000
        agent.behaviour = says({"status": "error", "error_message": said})

        with pytest.raises(AgentRefused) as refused:
            await execute()

        text = str(refused.value)
        assert "one two [31m three!!!" in text
        assert len(text) < 600

    async def test_does_not_tell_the_token(self, execute, agent):
        agent.behaviour = says({"detail": f"bad token {TOKEN}"}, status=401)

        with pytest.raises(AgentRefused, match=r"401: bad token \*\*\*$"):
            await execute()

    async def test_by_a_redirect_that_is_not_followed(self, execute, agent):
        agent.behaviour = redirects

        with pytest.raises(AgentRefused, match="answered 307"):
            await execute()

    async def test_by_nobody_there(self, http):
        async with agent_server() as gone:
            address = address_of(gone.url)

        with pytest.raises(AgentRefused, match=r"cannot be reached \(ConnectionRefusedError\)"):
            await http.execute(address, CALL, within_s=10)

    async def test_by_somebody_who_does_not_take_the_connection(self, http):
        with socket.socket() as full, socket.socket() as first:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            first.connect(full.getsockname())
            address = address_of(f"http://127.0.0.1:{full.getsockname()[1]}")

            with pytest.raises(AgentRefused, match="cannot be reached in time"):
                await http.execute(address, CALL, within_s=0.1)

    async def test_by_no_time_to_ask_in(self, execute, agent):
        with pytest.raises(AgentRefused, match="in time"):
            await execute(within_s=0)

        assert agent.calls == []

    async def test_by_who_does_not_speak_tls(self, http, agent):
        with pytest.raises(AgentRefused, match="cannot be reached"):
            await http.execute(address_of(agent.url.replace("http", "https")), CALL, within_s=10)

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
    async def test_by_an_address_that_is_private(self, http, agent, host):
        url = agent.url.replace("127.0.0.1", host)

        with pytest.raises(AgentRefused, match="AddressRefused"):
            await http.execute(address_of(url, may_be_private=False), CALL, within_s=10)

        assert agent.calls == []

    async def test_gives_no_connection_of_a_private_agent_to_another(self, http, agent, execute):
        await execute()

        with pytest.raises(AgentRefused, match="AddressRefused"):
            await http.execute(address_of(agent.url, may_be_private=False), CALL, within_s=10)

    async def test_asks_for_metadata_for_nobody(self, http):
        with pytest.raises(AgentRefused, match="AddressRefused"):
            await http.execute(address_of("http://169.254.169.254"), CALL, within_s=10)


class TestBroken:
    """Nobody knows whether the agent has done it."""

    @pytest.mark.parametrize(
        "body", [b"", b"<html>", b'{"output": "\xff"}', b'{"output": NaN}', b'{"output": 1} 2']
    )
    async def test_by_what_is_no_json(self, execute, agent, body):
        agent.behaviour = says(body)

        with pytest.raises(AgentBroken, match="no JSON"):
            await execute()

    @pytest.mark.parametrize("body", [[], "text", 1, None])
    async def test_by_what_is_no_object(self, execute, agent, body):
        agent.behaviour = says(body)

        with pytest.raises(AgentBroken, match="no JSON object"):
            await execute()

    @pytest.mark.parametrize("levels", [100, 100_000])
    async def test_by_what_is_nested_too_deep(self, execute, agent, levels):
        agent.behaviour = says(b'{"output":' + b"[" * levels + b"]" * levels + b"}")

        with pytest.raises(AgentBroken, match="deeper than 100"):
            await execute()

    async def test_not_by_what_is_nested_as_deep_as_it_may_be(self, execute, agent):
        agent.behaviour = says(b'{"output":' + b"[" * 99 + b"]" * 99 + b"}")

        assert await execute()

    async def test_not_by_what_is_wide(self, execute, agent):
        agent.answer = lambda call: [[]] * 10_000

        assert len(await execute()) == 10_000

    @pytest.mark.parametrize("behaviour", [huge, announces_huge])
    async def test_by_100_megabytes_of_which_few_are_taken(self, execute, agent, behaviour):
        agent.behaviour = behaviour
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

        with pytest.raises(AgentBroken, match="more than 1,048,576 bytes"):
            await execute()

        await until(lambda: not agent.open)
        grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown_kb < 50 * 1024

    async def test_not_by_as_many_bytes_as_there_may_be(self, execute, agent):
        frame = len(b'{"output":""}')
        agent.behaviour = says(b'{"output":"' + b"x" * (LIMIT_BYTES - frame) + b'"}')

        assert len(await execute()) == LIMIT_BYTES - frame

    async def test_by_what_is_compressed(self, execute, agent):
        agent.behaviour = bombs

        with pytest.raises(AgentBroken, match="compressed"):
            await execute()

    async def test_by_an_end_in_the_middle(self, execute, agent):
        agent.behaviour = dies

        with pytest.raises(AgentBroken, match="broke off"):
            await execute()

    async def test_by_an_end_without_a_word_and_asks_no_second_time(self, execute, agent):
        await execute()
        agent.behaviour = hangs_up

        with pytest.raises(AgentBroken, match="broke off"):
            await execute()

        assert len(agent.calls) == 2

    async def test_by_a_head_without_an_end(self, execute, agent):
        agent.behaviour = endless_head

        with pytest.raises(AgentBroken, match="broke off"):
            await execute()

    async def test_by_what_is_no_http(self, http):
        async def script(peer):
            await peer.request()
            await peer.send(b"220 mail.example.org ESMTP\r\n\r\n")

        async with raw_server(script) as server:
            with pytest.raises(AgentBroken, match="broke off"):
                await http.execute(address_of(f"http://127.0.0.1:{server.port}"), CALL, within_s=10)


class TestSilent:
    """Nobody knows either."""

    @pytest.mark.parametrize("behaviour", [slow, slow_body, continues])
    async def test_by_no_answer_in_time(self, execute, agent, behaviour):
        agent.behaviour = behaviour

        with pytest.raises(AgentSilent, match=r"did not answer in 0\.2 s"):
            await execute(within_s=0.2)

        await until(lambda: not agent.open)

    async def test_by_an_answer_that_comes_in_drops(self, http):
        async def script(peer):
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 99999\r\n\r\n")
            while True:
                await peer.send(b" ")
                await asyncio.sleep(0.01)

        async with raw_server(script) as server:
            with pytest.raises(AgentSilent):
                await http.execute(
                    address_of(f"http://127.0.0.1:{server.port}"), CALL, within_s=0.2
                )


class TestKeptConnection:
    async def test_that_was_closed_before_anything_went_over_it_is_replaced(self, execute, agent):
        agent.behaviour = cuts_keep_alive

        outputs = [await execute() for _ in range(5)]

        assert outputs == ["done"] * 5
        assert len(agent.calls) == 5

    async def test_does_not_outlive_what_servers_keep(self):
        # Gunicorn's 2 s are the shortest of those that are common.
        assert agent_http.KEEP_S < 2


class TestHealth:
    async def test_asks_with_the_token(self, http, address, agent):
        await http.health(address, within_s=10)

        (look,) = agent.looks
        assert (look.path, look.body) == ("/health", None)
        assert look.headers["authorization"] == f"Bearer {TOKEN}"

    async def test_answers_what_the_agent_says(self, http, address, agent):
        agent.health = {"ready": False, "version": "2"}

        assert await http.health(address, within_s=10) == {"ready": False, "version": "2"}

    async def test_is_refused_by_nobody_there(self, http):
        async with agent_server() as gone:
            address = address_of(gone.url)

        with pytest.raises(AgentRefused, match="cannot be reached"):
            await http.health(address, within_s=10)

    async def test_is_broken_by_an_end_without_a_word(self, http, address, agent):
        agent.behaviour = hangs_up

        with pytest.raises(AgentBroken, match="broke off"):
            await http.health(address, within_s=10)

    async def test_is_silent_without_an_answer(self, http, address, agent):
        agent.behaviour = slow

        with pytest.raises(AgentSilent):
            await http.health(address, within_s=0.1)


class TestAfterHostility:
    @pytest.mark.parametrize("name", HOSTILE)
    async def test_a_good_agent_is_served_as_before(self, http, execute, agent, name):
        agent.behaviour = HOSTILE[name]
        with pytest.raises((AgentRefused, AgentBroken, AgentSilent)):
            await execute(within_s=0.3)
        agent.behaviour = good

        began = time.monotonic()
        output = await execute()

        assert output == {"done": "review/ask"}
        assert time.monotonic() - began < 1


class TestClose:
    async def test_leaves_no_connection(self, agent):
        closed = asyncio.Event()

        async def script(peer):
            await peer.request()
            await peer.send(b'HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n{"output": 1}')
            await peer.gone()
            closed.set()

        async with raw_server(script) as server:
            http = AgentHttp(LIMIT_BYTES)
            await http.execute(address_of(f"http://127.0.0.1:{server.port}"), CALL, within_s=10)

            await http.close()

            await asyncio.wait_for(closed.wait(), 5)
