"""A model call in this process: the same gateway, the same bill."""

import asyncio
import json

import pytest

from app.kernel.errors import AppError
from app.kernel.problems import of
from app.modules.auth.api import ScopeMissing
from app.modules.billing.api import BudgetSpent, LimitReached
from app.modules.routing.api import Completion, Completions
from app.modules.routing.service.pricelist import PriceEntry, PriceFile
from tests.house import KEY
from tests.modules.routing.asking import CHAT, body, module, new_key, put, usages
from tests.scripted_upstream import Peer, raw_server
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


def completions(client) -> Completions:
    return module(client, "routing").exports()[Completions]


async def principal(client, key: str = KEY):
    return await module(client, "auth").authenticator.authenticate(key.encode())


async def principal_of_key(client, **more):
    headers = await new_key(client, **more)
    return await principal(client, headers["authorization"].removeprefix("Bearer "))


async def complete(client, model: str = "good", **more) -> Completion:
    return await completions(client).complete(await principal(client), model, "hi", **more)


async def refused(client, caller, model: str) -> AppError:
    with pytest.raises(AppError) as caught:
        await completions(client).complete(caller, model, "hi")
    return caught.value


class TestComplete:
    async def test_answers_with_text_and_tokens(self, client):
        found = await complete(client)

        assert (found.text, found.model) == ("hello", "good")
        assert (found.input_tokens, found.output_tokens) == (7, 5)

    async def test_asks_with_one_message_of_the_user(self, client, one):
        await complete(client)

        assert json.loads(one.bodies[0]) == body("good")

    async def test_leaves_the_row_that_the_wire_leaves(self, client):
        await client.post(CHAT, json=body("good"))
        found = await complete(client)

        wire, own = await usages(client)
        differs = {"id", "request_id", "started_at_ms", "duration_ms", "first_byte_ms"}
        assert own["id"] == str(found.call_id)
        assert {k: v for k, v in own.items() if k not in differs} == {
            k: v for k, v in wire.items() if k not in differs
        }
        assert (own["input_tokens"], own["output_tokens"], own["status"]) == (7, 5, 200)

    async def test_goes_by_the_callers_key_in_that_row(self, client):
        await complete(client, call_key="sandbox:7:1")

        (row,) = await usages(client)
        assert row["request_id"] == "sandbox:7:1"

    async def test_tells_no_tokens_that_the_upstream_did_not_tell(self, client):
        found = await complete(client, "no-usage")

        assert (found.input_tokens, found.output_tokens) == (None, None)

    async def test_falls_back_as_the_wire_does(self, client, two):
        await put(client, "fast", ("one", "error-500"), ("two", "good"))

        found = await complete(client, "fast")

        assert found.text == "hello"
        assert len(two.bodies) == 1

    async def test_counts_nothing_for_an_answer_that_was_known(self, client, one):
        caller = await principal(client)
        await module(client, "routing").registry.keep_answers(caller.credential_id, 60)
        await complete(client)

        found = await complete(client)

        assert (found.text, found.input_tokens, found.output_tokens) == ("hello", 0, 0)
        assert len(one.bodies) == 1


class TestDefaultModel:
    @pytest.mark.parametrize("name", ["default", ""])
    async def test_is_the_installations(self, open_client, one, name):
        client = await open_client(ROUTING_DEFAULT_MODEL="no-usage")

        await complete(client, name)

        assert json.loads(one.bodies[0])["model"] == "no-usage"

    async def test_is_else_the_first_chat_model_that_the_caller_may_use(self, client, one):
        caller = await principal_of_key(client, scopes=["inference"], models=["late", "good"])

        await completions(client).complete(caller, "default", "hi")

        assert json.loads(one.bodies[0])["model"] == "good"

    async def test_is_what_an_alias_of_that_name_leads_to(self, client, two):
        await put(client, "default", ("two", "other"))

        await complete(client, "default")

        assert json.loads(two.bodies[0])["model"] == "other"

    async def test_is_none_where_no_model_is_open_to_the_caller(self, client):
        caller = await principal_of_key(client, scopes=["inference"], models=["nothing"])

        error = await refused(client, caller, "default")

        assert of(error).status == 404


class TestRefusal:
    @pytest.mark.parametrize("model", ["good", "no-such-model"])
    async def test_of_a_model_says_what_the_wire_says(self, client, model):
        headers = await new_key(client, scopes=["inference"], models=["late"])
        caller = await principal(client, headers["authorization"].removeprefix("Bearer "))
        wire = await client.post(CHAT, json=body(model), headers=headers)

        error = await refused(client, caller, model)

        assert of(error).status == wire.status_code == 404
        assert str(error) == wire.json()["error"]["message"]

    async def test_of_a_key_that_may_not_ask_models(self, client, one):
        caller = await principal_of_key(client, scopes=["read"])

        error = await refused(client, caller, "good")

        assert isinstance(error, ScopeMissing)
        assert one.bodies == []

    @pytest.mark.parametrize(
        ("limit", "kind"), [({"tpm": 1}, LimitReached), ({"budget_nanos": 1}, BudgetSpent)]
    )
    async def test_beyond_the_callers_limits_asks_nobody(self, client, one, limit, kind):
        prices = PriceFile("test", "USD", [PriceEntry("one", "good", "1", "2")])
        registry = module(client, "routing").registry
        await registry.import_prices(prices)
        await registry.reload()
        caller = await principal_of_key(client, scopes=["inference"])
        await client.put(f"/api/v1/billing/limits/key/{caller.credential_id}", json=limit)

        error = await refused(client, caller, "good")

        assert isinstance(error, kind)
        assert of(error).status == 429
        assert one.bodies == []

    @pytest.mark.parametrize(
        ("model", "status"),
        [
            ("error-400", 400),
            ("error-404", 404),
            ("error-413", 413),
            ("error-429", 429),
            ("error-500", 502),
            ("error-504", 504),
        ],
    )
    async def test_of_the_upstream_is_told_in_its_words(self, client, one, model, status):
        await put(client, model, ("one", model))

        error = await refused(client, await principal(client), model)

        assert of(error).status == status
        assert f"scripted {model[-3:]}" in str(error)

    @pytest.mark.parametrize("model", ["garbage", "huge", "dies-plain", "error-401"])
    async def test_of_a_broken_upstream_is_a_bad_gateway(self, client, model):
        error = await refused(client, await principal(client), model)

        assert of(error).status == 502
        assert "sk-one" not in str(error)

    async def test_that_came_with_status_200_is_one(self, open_client):
        told = b'{"error":{"message":"scripted overload"}}'
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(head % len(told) + told)

        async with raw_server(script) as server:
            client = await open_client(ONE_BASE_URL=server.base_url)
            await put(client, "overloaded", ("one", "overloaded"))

            error = await refused(client, await principal(client), "overloaded")

        assert of(error).status == 502
        assert str(error) == "scripted overload"

    async def test_leaves_its_row(self, client):
        await refused(client, await principal(client), "error-500")

        (row,) = await usages(client)
        assert (row["outcome"], row["status"]) == ("failed", 500)


class TestCancel:
    async def test_cuts_the_upstream_and_is_the_callers_leaving(self, client, one):
        asking = asyncio.create_task(complete(client, "slow"))
        await until(lambda: one.open == 1)

        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

        await until(lambda: one.cut == 1)
        (row,) = await usages(client)
        assert (row["outcome"], row["status"], row["is_estimated"]) == ("abandoned", 499, True)
