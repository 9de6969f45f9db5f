"""Smart routing: no model is named, or a strategy is."""

import json

import pytest
import pytest_asyncio

from tests.house import AUTHORIZED, open_house, prepare
from tests.modules.routing.asking import CHAT, body, new_key

pytestmark = pytest.mark.asyncio(loop_scope="module")

CODE = {"messages": [{"role": "user", "content": "Debug this python function for me"}]}


@pytest_asyncio.fixture(loop_scope="module")
async def client(tmp_path, one, two):
    variables = {
        "EXTERNAL_ONE_KEY": "sk-one",
        "ONE_BASE_URL": one.base_url,
        "ROUTING_OLLAMA": "auto",
        "OLLAMA_HOST": two.base_url.removesuffix("/v1"),
    }
    one.models, two.models = ["cheap", "dear"], ["home"]
    async with open_house(prepare(tmp_path / "data"), **variables) as (house, client):
        client.headers.update(AUTHORIZED)
        client.house = house
        await client.get("/v1/models")
        registry = next(m for m in house.block.modules if m.name == "routing").registry
        await registry.import_prices(PRICES)
        await registry.reload()
        for name, quality in (("cheap", "great"), ("dear", "excellent")):
            targets = [{"upstream": "one", "model": name, "quality": quality}]
            await client.put(f"/api/v1/routing/models/{name}", json={"targets": targets})
        yield client


def _prices():
    from app.modules.routing.service.pricelist import PriceEntry, PriceFile

    entries = [PriceEntry("one", "cheap", "0.1", "0.4"), PriceEntry("one", "dear", "3", "15")]
    return PriceFile("v1", "USD", entries)


PRICES = _prices()


class TestAuto:
    async def test_without_a_model_what_is_free_answers(self, client, two):
        answer = await client.post(CHAT, json=CODE)

        assert answer.status_code == 200
        assert json.loads(two.bodies[0])["model"] == "home"
        assert answer.headers["x-route-model"] == "home"
        assert answer.headers["x-route-provider"] == "ollama"
        assert answer.headers["x-classification"] == "coding"

    @pytest.mark.parametrize(
        ("strategy", "model"), [("quality-first", "dear"), ("local-only", "home")]
    )
    async def test_a_strategy_picks_even_where_a_model_is_named(self, client, strategy, model):
        answer = await client.post(
            CHAT, json=body("cheap"), headers={"x-routing-strategy": strategy}
        )

        assert answer.headers["x-route-model"] == model

    async def test_pass_through_leaves_the_model_as_named(self, client):
        answer = await client.post(
            CHAT, json=body("dear"), headers={"x-routing-strategy": "pass-through"}
        )

        assert answer.headers["x-route-model"] == "dear"
        assert answer.headers["x-estimated-cost-per-1m"] == "3"

    async def test_a_highest_price_is_kept_to(self, client):
        headers = {"x-routing-strategy": "quality-first", "x-max-cost": "1"}

        answer = await client.post(CHAT, json=CODE | {"model": "auto"}, headers=headers)

        assert answer.headers["x-route-model"] != "dear"

    async def test_only_models_that_the_key_may_use_are_picked(self, client):
        key = await new_key(client, scopes=["inference"], models=["cheap"])

        answer = await client.post(CHAT, json=CODE, headers=key)

        assert answer.headers["x-route-model"] == "cheap"

    @pytest.mark.parametrize(
        "headers",
        [
            {"x-routing-strategy": "best"},
            {"x-max-cost": "much", "x-routing-strategy": "quality-first"},
        ],
    )
    async def test_a_wish_that_is_none_is_400(self, client, headers):
        assert (await client.post(CHAT, json=CODE, headers=headers)).status_code == 400

    async def test_nothing_local_is_an_error_and_never_somewhere_else(self, client, one):
        key = await new_key(client, scopes=["inference"], models=["cheap", "dear"])

        answer = await client.post(
            CHAT, json=CODE, headers=key | {"x-routing-strategy": "local-only"}
        )

        assert (answer.status_code, one.bodies) == (404, [])

    async def test_is_explained(self, client):
        found = (await client.post("/api/v1/routing/explain", json=CODE)).json()

        assert (found["model"], found["category"], found["strategy"]) == (
            "home",
            "coding",
            "cost-optimized",
        )
