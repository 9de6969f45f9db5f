"""``/v1/responses`` and ``/v1/messages`` at upstreams that speak chat only, and at others."""

import json

import pytest
import pytest_asyncio

from tests.modules.routing.asking import new_user, put, usages

pytestmark = pytest.mark.asyncio(loop_scope="module")

RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"


def response(model: str = "good", **more) -> dict:
    return {"model": model, "input": "hi", **more}


def message(model: str = "good", **more) -> dict:
    return {
        "model": model,
        "max_tokens": 50,
        "messages": [{"role": "user", "content": "hi"}],
        **more,
    }


def events(text: str) -> list[dict]:
    data = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in data if line != "[DONE]"]


class TestResponses:
    async def test_are_asked_as_chat_and_answered_as_a_response(self, client, one):
        answer = (await client.post(RESPONSES, json=response(instructions="be brief"))).json()

        sent = json.loads(one.bodies[0])
        assert [m["role"] for m in sent["messages"]] == ["system", "user"]
        assert (answer["object"], answer["status"]) == ("response", "completed")
        assert answer["output"][0]["content"][0]["text"] == "hello"
        assert answer["usage"]["input_tokens"] == 7

    async def test_leave_one_row_each(self, client):
        answer = await client.post(RESPONSES, json=response())

        (row,) = await usages(client)
        assert (row["surface"], row["input_tokens"], row["output_tokens"]) == ("responses", 7, 5)
        assert row["id"] == answer.headers["x-call-id"]

    async def test_stream_numbered_events_up_to_the_last(self, client):
        answer = await client.post(RESPONSES, json=response(stream=True))

        told = events(answer.text)
        assert [event["sequence_number"] for event in told] == list(range(len(told)))
        assert told[-1]["type"] == "response.completed"
        assert told[-1]["response"]["usage"]["output_tokens"] == 5
        (row,) = await usages(client)
        assert (row["outcome"], row["is_estimated"], row["output_tokens"]) == (
            "completed",
            False,
            5,
        )

    async def test_go_on_with_the_one_before(self, client, one):
        first = (await client.post(RESPONSES, json=response())).json()

        again = await client.post(
            RESPONSES, json=response(input="and?", previous_response_id=first["id"])
        )

        sent = json.loads(one.bodies[1])
        assert again.status_code == 200
        assert [m["content"] for m in sent["messages"]] == ["hi", "hello", "and?"]

    async def test_a_streamed_one_can_be_gone_on_with_too(self, client, one):
        streamed = await client.post(RESPONSES, json=response(stream=True))
        previous = events(streamed.text)[-1]["response"]["id"]

        again = await client.post(RESPONSES, json=response(previous_response_id=previous))

        assert again.status_code == 200
        assert len(json.loads(one.bodies[1])["messages"]) == 3

    async def test_somebody_elses_cannot(self, client):
        first = (await client.post(RESPONSES, json=response())).json()
        other = await new_user(client)

        answers = [
            await client.post(
                RESPONSES, json=response(previous_response_id=first["id"]), headers=other
            ),
            await client.get(f"{RESPONSES}/{first['id']}", headers=other),
            await client.delete(f"{RESPONSES}/{first['id']}", headers=other),
        ]

        assert [answer.status_code for answer in answers] == [404, 404, 404]

    async def test_what_chat_does_not_have_is_named(self, client, one):
        answer = await client.post(RESPONSES, json=response(tools=[{"type": "web_search"}]))

        assert (answer.status_code, one.bodies) == (400, [])
        assert answer.json()["error"]["param"].startswith("tools")

    async def test_a_failure_in_the_stream_is_an_event_of_theirs(self, client):
        answer = await client.post(RESPONSES, json=response("dies-streaming", stream=True))

        told = events(answer.text)
        assert told[-1]["type"] == "response.failed"
        (row,) = await usages(client)
        assert row["outcome"] == "failed"

    async def test_fall_back_like_any_call(self, client):
        await put(client, "fast", ("one", "error-500"), ("two", "good"))

        answer = await client.post(RESPONSES, json=response("fast"))

        assert answer.json()["output"][0]["content"][0]["text"] == "hello"


class TestNativeResponses:
    @pytest_asyncio.fixture(loop_scope="module")
    async def native(self, open_client):
        return await open_client(ROUTING_NATIVE_RESPONSES="one", ROUTING_NATIVE_MESSAGES="one")

    @pytest.mark.parametrize(("path", "asked"), [(RESPONSES, response()), (MESSAGES, message())])
    async def test_pass_byte_for_byte_where_the_upstream_has_them(self, native, one, path, asked):
        sent = json.dumps(asked | {"odd": [1.10]}, indent=1).encode()

        answer = await native.post(path, content=sent)

        assert one.bodies == [sent]
        assert one.paths == [path]
        assert answer.status_code == 200

    async def test_one_that_was_made_here_is_gone_on_with_here(self, native, one):
        first = (await native.post(RESPONSES, json=response("other"))).json()

        await native.post(RESPONSES, json=response(previous_response_id=first["id"]))

        assert one.paths[-1] == "/v1/chat/completions"


class TestMessages:
    async def test_are_asked_as_chat_and_answered_as_a_message(self, client, one):
        answer = (await client.post(MESSAGES, json=message(system="be brief"))).json()

        sent = json.loads(one.bodies[0])
        assert (sent["messages"][0]["role"], sent["max_tokens"]) == ("system", 50)
        assert (answer["type"], answer["stop_reason"]) == ("message", "end_turn")
        assert answer["content"] == [{"type": "text", "text": "hello"}]
        assert answer["usage"]["input_tokens"] == 7

    async def test_take_the_key_where_their_clients_put_it(self, client):
        key = client.headers.pop("authorization").removeprefix("Bearer ")

        answer = await client.post(MESSAGES, json=message(), headers={"x-api-key": key})

        assert answer.status_code == 200

    async def test_stream_their_own_events(self, client):
        answer = await client.post(MESSAGES, json=message(stream=True))

        told = [event["type"] for event in events(answer.text)]
        assert (told[0], told[-1]) == ("message_start", "message_stop")
        (row,) = await usages(client)
        assert (row["surface"], row["input_tokens"], row["output_tokens"]) == ("messages", 7, 5)

    @pytest.mark.parametrize(
        ("asked", "status", "kind"),
        [
            (message("nobody"), 404, "not_found_error"),
            (message("error-400"), 400, "invalid_request_error"),
            (message("error-500"), 500, "api_error"),
            ({"model": "good", "messages": 3}, 400, "invalid_request_error"),
        ],
    )
    async def test_fail_in_their_own_shape(self, client, asked, status, kind):
        answer = await client.post(MESSAGES, json=asked)

        told = answer.json()
        assert (answer.status_code, told["type"], told["error"]["type"]) == (status, "error", kind)

    async def test_a_wrong_key_is_told_in_their_shape(self, client):
        answer = await client.post(
            MESSAGES, json=message(), headers={"authorization": "Bearer wrong"}
        )

        assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")

    async def test_a_failure_in_the_stream_is_an_event_of_theirs(self, client):
        answer = await client.post(MESSAGES, json=message("dies-streaming", stream=True))

        assert events(answer.text)[-1]["type"] == "error"
