"""The registry: names, prices, discovery."""

import pytest

from app.modules.routing.adapters import dev_source
from app.modules.routing.domain import ModelNotFound
from app.modules.routing.service import PriceEntry, PriceFile, Registry, bundled_prices
from tests.fakes.upstream import FakeUpstream, source
from tests.waiting import until


@pytest.fixture
async def open_registry(db):
    opened = []

    async def make(*sources, **more) -> Registry:
        registry = Registry(db, sources, dev_source(), **more)
        await registry.open()
        await registry.ready_list()
        opened.append(registry)
        return registry

    yield make
    for registry in opened:
        await registry.close()


def names(registry: Registry) -> list[str]:
    return sorted(route.name for route in registry.listed())


class TestDiscovery:
    async def test_offers_what_the_upstreams_list(self, open_registry):
        registry = await open_registry(source("one", FakeUpstream("a", "b")))

        assert names(registry) == ["a", "b"]

    async def test_a_name_that_two_offer_stays_the_first_ones(self, open_registry):
        first, second = FakeUpstream("same"), FakeUpstream("same")
        await open_registry(source("one", first))

        registry = await open_registry(source("one", first), source("two", second))

        assert registry.find("same").upstream is first
        assert registry.find("two/same").upstream is second

    async def test_every_model_answers_to_its_upstreams_name(self, open_registry):
        registry = await open_registry(source("one", FakeUpstream("vendor/model")))

        route = registry.find("one/vendor/model")

        assert (route.upstream_model, route.renames, route.is_listed) == (
            "vendor/model",
            True,
            False,
        )

    async def test_a_model_that_is_gone_is_offered_no_more(self, open_registry):
        upstream = FakeUpstream("old", "kept")
        registry = await open_registry(source("one", upstream))
        upstream.offered = ["kept", "new"]

        await registry.discover()

        assert names(registry) == ["kept", "new"]

    async def test_an_upstream_that_is_down_keeps_what_is_known_of_it(self, open_registry):
        upstream = FakeUpstream("a")
        registry = await open_registry(source("one", upstream))
        upstream.is_down = True

        await registry.discover()

        assert names(registry) == ["a"]

    async def test_a_bundled_model_of_a_named_provider_needs_no_listing(self, open_registry):
        upstream = FakeUpstream()
        upstream.is_down = True

        registry = await open_registry(source("openai", upstream))

        assert registry.find("gpt-4o-mini").upstream is upstream

    async def test_a_server_that_may_be_there_counts_when_it_answers(self, open_registry):
        answers = [False]

        async def probe() -> bool:
            return answers[0]

        registry = await open_registry(source("ollama", FakeUpstream("llama"), probe=probe))
        before = names(registry)
        answers[0] = True
        await registry.discover()

        assert before == ["dev/echo"]
        assert names(registry) == ["llama"]


class TestLocate:
    async def test_asks_again_before_it_says_no(self, open_registry, monkeypatch):
        monkeypatch.setattr("app.modules.routing.service.DISCOVER_AGAIN_S", 0.0)
        upstream = FakeUpstream("a")
        registry = await open_registry(source("one", upstream))
        upstream.offered = ["a", "new"]

        assert (await registry.locate("new")).upstream_model == "new"

    async def test_does_not_ask_at_every_strangers_word(self, open_registry):
        upstream = FakeUpstream("a")
        registry = await open_registry(source("one", upstream))

        for _ in range(5):
            with pytest.raises(ModelNotFound):
                await registry.locate("nobody")

        assert upstream.listed == 1

    async def test_names_what_was_probably_meant(self, open_registry):
        registry = await open_registry(source("one", FakeUpstream("gpt-4o-mini")))

        with pytest.raises(ModelNotFound, match="Did you mean gpt-4o-mini"):
            await registry.locate("gpt-4o")


class TestDevModel:
    async def test_is_there_while_nothing_else_is(self, open_registry):
        assert names(await open_registry()) == ["dev/echo"]

    async def test_is_gone_as_soon_as_a_real_upstream_exists(self, open_registry):
        assert names(await open_registry(source("one", FakeUpstream("a")))) == ["a"]

    async def test_stays_when_it_is_told_to(self, open_registry):
        registry = await open_registry(source("one", FakeUpstream("a")), dev_model="on")

        assert names(registry) == ["a", "dev/echo"]

    async def test_can_be_switched_off(self, open_registry):
        assert names(await open_registry(dev_model="off")) == []


class TestPrices:
    def listed(self, version: str, price: str, model: str = "m") -> PriceFile:
        return PriceFile(version, "EUR", [PriceEntry("one", model, price, "2")])

    async def test_the_newest_version_counts(self, open_registry):
        registry = await open_registry(source("one", FakeUpstream("m")))
        await registry.import_prices(self.listed("2025-01", "0.15"))
        await registry.import_prices(self.listed("2025-02", "0.1"))
        await registry.reload()

        price = registry.find("m").price

        assert (price.version, price.currency, price.input_micros) == ("2025-02", "EUR", 100_000)

    async def test_importing_twice_changes_nothing(self, open_registry):
        registry = await open_registry(source("one", FakeUpstream("m")))

        for _ in range(2):
            await registry.import_prices(self.listed("2025-01", "0.15"))

        await registry.reload()
        assert registry.find("m").price.input_micros == 150_000

    async def test_a_dated_snapshot_costs_what_its_model_costs(self, open_registry):
        registry = await open_registry(source("openai", FakeUpstream("gpt-4o-mini-2024-07-18")))

        price = registry.find("gpt-4o-mini-2024-07-18").price

        assert (price.version, price.input_micros) == (bundled_prices().version, 150_000)

    async def test_an_unknown_price_is_unknown_and_a_free_model_is_free(self, open_registry):
        registry = await open_registry(
            source("one", FakeUpstream("paid")), source("two", FakeUpstream("own"), is_free=True)
        )

        assert registry.find("paid").price is None
        assert registry.find("own").price.version == "free"


class TestPut:
    async def test_gives_a_model_another_name_which_other_processes_see(self, open_registry):
        upstream = FakeUpstream("real")
        serving = await open_registry(source("one", upstream))
        editing = await open_registry(source("one", upstream))

        await editing.put("fast", "one", "real")

        route = await until(lambda: serving.find("fast"))
        assert (route.upstream_model, route.renames) == ("real", True)

    async def test_points_a_taken_name_elsewhere(self, open_registry):
        registry = await open_registry(source("one", FakeUpstream("a", "b")))
        await registry.put("fast", "one", "a")
        await registry.put("fast", "one", "b")
        await registry.reload()

        assert registry.find("fast").upstream_model == "b"


class TestClose:
    async def test_closes_every_upstream(self, open_registry):
        upstream = FakeUpstream("a")
        registry = await open_registry(source("one", upstream))

        await registry.close()

        assert upstream.is_closed
