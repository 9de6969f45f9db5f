"""The registry: names, prices, discovery."""

import pytest

from app.kernel.db import uuid7
from app.modules.routing.adapters import dev_source
from app.modules.routing.domain.names import ModelNotFound
from app.modules.routing.models import ModelRow
from app.modules.routing.ports import Guest
from app.modules.routing.service.pricelist import PriceEntry, PriceFile, bundled_prices
from app.modules.routing.service.registry import Registry
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


def row(upstream: str, model: str, **more) -> ModelRow:
    return ModelRow(
        name="fast", upstream=upstream, upstream_model=model, kind="chat", source="manual", **more
    )


def place(route) -> tuple[str, str]:
    """Where a route leads first: the upstream, and the model there."""
    return route.targets[0].source.name, route.targets[0].model


def price(registry: Registry, name: str):
    return registry.find(name).targets[0].price


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

        assert registry.find("same").targets[0].upstream is first
        assert registry.find("two/same").targets[0].upstream is second

    async def test_every_model_answers_to_its_upstreams_name(self, open_registry):
        registry = await open_registry(source("one", FakeUpstream("vendor/model")))

        route = registry.find("one/vendor/model")

        assert (place(route), route.is_listed) == (("one", "vendor/model"), False)

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

        assert registry.find("gpt-4o-mini").targets[0].upstream is upstream

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
        monkeypatch.setattr("app.modules.routing.service.registry.DISCOVER_AGAIN_S", 0.0)
        upstream = FakeUpstream("a")
        registry = await open_registry(source("one", upstream))
        upstream.offered = ["a", "new"]

        assert place(await registry.locate("new")) == ("one", "new")

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

        found = price(registry, "m")

        assert (found.version, found.currency, found.input_micros) == ("2025-02", "EUR", 100_000)

    async def test_importing_twice_changes_nothing(self, open_registry):
        registry = await open_registry(source("one", FakeUpstream("m")))

        for _ in range(2):
            await registry.import_prices(self.listed("2025-01", "0.15"))

        await registry.reload()
        assert price(registry, "m").input_micros == 150_000

    async def test_a_dated_snapshot_costs_what_its_model_costs(self, open_registry):
        registry = await open_registry(source("openai", FakeUpstream("gpt-4o-mini-2024-07-18")))

        found = price(registry, "gpt-4o-mini-2024-07-18")

        assert (found.version, found.input_micros) == (bundled_prices().version, 150_000)

    async def test_an_unknown_price_is_unknown_and_a_free_model_is_free(self, open_registry):
        registry = await open_registry(
            source("one", FakeUpstream("paid")), source("two", FakeUpstream("own"), is_free=True)
        )

        assert price(registry, "paid") is None
        assert price(registry, "own").version == "free"


class TestPut:
    async def test_gives_a_model_another_name_which_other_processes_see(self, open_registry):
        upstream = FakeUpstream("real")
        serving = await open_registry(source("one", upstream))
        editing = await open_registry(source("one", upstream))

        await editing.put("fast", "ordered", [row("one", "real")])

        assert place(await until(lambda: serving.find("fast"))) == ("one", "real")

    async def test_points_a_taken_name_elsewhere(self, open_registry):
        registry = await open_registry(source("one", FakeUpstream("a", "b")))
        await registry.put("fast", "ordered", [row("one", "a")])
        await registry.put("fast", "ordered", [row("one", "b")])

        route = registry.find("fast")

        assert [target.model for target in route.targets] == ["b"]

    async def test_gives_several_models_one_name_in_order(self, open_registry):
        registry = await open_registry(source("one", FakeUpstream("a", "b")))

        await registry.put(
            "fast", "weighted", [row("one", "b", position=0, weight=3), row("one", "a", position=1)]
        )

        route = registry.find("fast")
        assert route.policy == "weighted"
        assert [(t.model, t.weight) for t in route.targets] == [("b", 3), ("a", 1)]

    async def test_time_outs_of_a_row_go_before_the_installations(self, open_registry):
        registry = await open_registry(source("one", FakeUpstream("a")))

        rows = [row("one", "a", first_byte_timeout_s=3.0, deadline_s=9.0)]
        await registry.put("fast", "ordered", rows)

        route = registry.find("fast")
        deadlines = route.targets[0].deadlines
        assert (deadlines.first_byte_s, deadlines.connect_s, route.deadline_s) == (3.0, 5.0, 9.0)


class TestForget:
    async def test_drops_a_name(self, open_registry):
        registry = await open_registry(source("one", FakeUpstream("a")))
        await registry.put("fast", "ordered", [row("one", "a")])

        await registry.forget("fast")

        assert registry.find("fast") is None

    async def test_an_unknown_name_is_not_found(self, open_registry):
        registry = await open_registry(source("one", FakeUpstream("a")))

        with pytest.raises(ModelNotFound):
            await registry.forget("fast")


class TestOwnKey:
    async def test_reaches_a_provider_that_only_the_caller_knows(self, open_registry):
        upstream = FakeUpstream()
        registry = await open_registry(strangers=[source("groq", upstream)])

        route = await registry.locate_with_own_key("groq/llama/3")

        assert place(route) == ("groq", "llama/3")
        assert (route.targets[0].price, route.is_listed) == (None, False)

    async def test_reaches_nothing_else(self, open_registry):
        registry = await open_registry(strangers=[source("groq", FakeUpstream())])

        for name in ("nobody/llama", "groq", "groq/"):
            with pytest.raises(ModelNotFound):
                await registry.locate_with_own_key(name)


class TestWelcome:
    def guest(self, name: str, *models: str, user_id=None) -> Guest:
        upstream = FakeUpstream()
        return Guest(
            source=source(name, upstream),
            upstream=upstream,
            models=models,
            created_s=1,
            user_id=user_id,
        )

    async def test_a_model_that_several_offer_leads_to_all_of_them(self, open_registry):
        registry = await open_registry()

        await registry.welcome([self.guest("worker/a", "llama"), self.guest("worker/b", "llama")])

        route = registry.find("llama")
        assert [t.source.name for t in route.targets] == ["worker/a", "worker/b"]
        assert (route.policy, place(registry.find("worker/b/llama"))) == (
            "least-busy",
            ("worker/b", "llama"),
        )

    async def test_a_guest_of_one_user_is_that_users_alone(self, open_registry):
        registry = await open_registry()
        user_id = uuid7()

        await registry.welcome([self.guest("worker/a", "llama", user_id=user_id)])

        assert registry.find("llama") is None
        assert registry.find("worker/a/llama").user_id == user_id

    async def test_a_taken_name_stays_its_owners(self, open_registry):
        registry = await open_registry(source("one", FakeUpstream("llama")))

        await registry.welcome([self.guest("worker/a", "llama")])

        assert place(registry.find("llama")) == ("one", "llama")

    async def test_who_is_gone_is_offered_no_more(self, open_registry):
        registry = await open_registry()
        await registry.welcome([self.guest("worker/a", "llama")])

        await registry.welcome([])

        assert registry.find("llama") is None


class TestCaches:
    async def test_a_keys_answers_are_kept_until_that_ends(self, open_registry):
        registry = await open_registry()
        credential_id = uuid7()

        await registry.keep_answers(credential_id, 60)
        during = registry.cache_ttl_s(credential_id)
        await registry.keep_answers(credential_id, 0)

        assert (during, registry.cache_ttl_s(credential_id)) == (60, 0)


class TestClose:
    async def test_closes_every_upstream(self, open_registry):
        upstream = FakeUpstream("a")
        registry = await open_registry(source("one", upstream))

        await registry.close()

        assert upstream.is_closed
