"""The gateway over HTTP: choosing, falling back, leaving, remembering, own keys."""

import asyncio
import json

import pytest
import pytest_asyncio
from sqlalchemy import select

from app.asgi import Insula
from app.modules.billing.models import UsageRow
from tests.house import AUTHORIZED, alive, environment, open_house, prepare
from tests.modules.routing.asking import (
    CHAT,
    Caller,
    body,
    module,
    new_key,
    new_user,
    put,
    usages,
)
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


class TestAliases:
    async def test_a_name_leads_to_several_models_in_order(self, client, one, two):
        await put(client, "fast", ("one", "error-500"), ("two", "good"))

        answer = await client.post(CHAT, json=body("fast"))

        assert answer.status_code == 200
        assert json.loads(two.bodies[0])["model"] == "good"
        (row,) = await usages(client)
        assert (row["model"], row["upstream"], row["upstream_model"], row["attempts"]) == (
            "fast",
            "two",
            "good",
            2,
        )

    async def test_is_listed_shown_and_dropped(self, client):
        made = await put(client, "team/fast", ("one", "good"), policy="least-busy", deadline_s=9)
        listed = [card["id"] for card in (await client.get("/v1/models")).json()["data"]]
        dropped = await client.delete("/api/v1/routing/models/team/fast")
        again = await client.delete("/api/v1/routing/models/team/fast")

        assert (made["policy"], made["deadline_s"]) == ("least-busy", 9)
        assert "team/fast" in listed
        assert (dropped.status_code, again.status_code) == (204, 404)

    @pytest.mark.parametrize(
        "bad",
        [
            {"targets": []},
            {"targets": [{"upstream": "nobody", "model": "m"}]},
            {"targets": [{"upstream": "one", "model": "m", "weight": 0}]},
            {"targets": [{"upstream": "one", "model": "m"}], "policy": "best"},
            {"targets": [{"upstream": "one", "model": "m", "first_byte_timeout_s": -1}]},
            {"targets": [{"upstream": "one", "model": "m"}], "odd": 1},
        ],
    )
    async def test_a_wrong_one_is_refused_and_leaves_nothing(self, client, bad):
        answer = await client.put("/api/v1/routing/models/fast", json=bad)

        assert answer.status_code == 400, answer.text
        assert (await client.post(CHAT, json=body("fast"))).status_code == 404

    async def test_only_the_owner_makes_them(self, client):
        member = await new_user(client)
        targets = {"targets": [{"upstream": "one", "model": "good"}]}

        made = await client.put("/api/v1/routing/models/fast", json=targets, headers=member)
        listed = await client.get("/api/v1/routing/models", headers=member)
        dropped = await client.delete("/api/v1/routing/models/good", headers=member)

        assert [a.status_code for a in (made, listed, dropped)] == [403, 403, 403]

    async def test_a_rows_time_out_is_kept(self, client, two):
        targets = [
            {"upstream": "one", "model": "hangs", "first_byte_timeout_s": 0.2},
            {"upstream": "two", "model": "good"},
        ]
        await client.put("/api/v1/routing/models/fast", json={"targets": targets})

        assert (await client.post(CHAT, json=body("fast"))).status_code == 200
        assert len(two.bodies) == 1


class TestOpenRouterMembers:
    async def test_models_are_tried_in_turn_and_reach_no_strict_server(self, client, one):
        answer = await client.post(
            CHAT, json=body("error-500", models=["no-such-model", "good"], provider={"zdr": False})
        )

        assert answer.status_code == 200
        assert [json.loads(sent)["model"] for sent in one.bodies] == ["error-500", "good"]
        assert all({"models", "provider"}.isdisjoint(json.loads(sent)) for sent in one.bodies)

    async def test_order_and_only_and_fallbacks_are_honoured(self, client, one, two):
        await put(client, "fast", ("one", "error-500"), ("two", "good"))

        only = await client.post(CHAT, json=body("fast", provider={"only": ["one"]}))
        order = await client.post(
            CHAT, json=body("fast", provider={"order": ["two"], "allow_fallbacks": False})
        )

        assert (only.status_code, order.status_code) == (500, 200)
        assert (len(one.bodies), len(two.bodies)) == (1, 1)

    async def test_a_wish_that_leaves_nobody_is_404_with_the_reason(self, client):
        answer = await client.post(CHAT, json=body(provider={"ignore": ["one"]}))

        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (404, "provider")
        assert "provider.ignore" in error["message"]

    @pytest.mark.parametrize("provider", [[], {"order": 3}, {"odd": 1}, "groq"])
    async def test_a_wish_that_is_none_is_400(self, client, provider):
        answer = await client.post(CHAT, json=body(provider=provider))

        assert answer.status_code == 400
        assert answer.json()["error"]["param"].startswith("provider")


class TestStreams:
    async def test_an_error_before_content_falls_back_unseen(self, client, two):
        await put(client, "fast", ("one", "errors-at-once"), ("two", "good"))

        answer = await client.post(CHAT, json=body("fast", stream=True))

        assert '"error"' not in answer.text
        assert answer.text.endswith("data: [DONE]\n\n")
        assert len(two.bodies) == 1

    async def test_nothing_is_switched_after_content(self, client, two):
        await put(client, "fast", ("one", "dies-streaming"), ("two", "good"))

        answer = await client.post(CHAT, json=body("fast", stream=True))

        assert '"code":"upstream_unreachable"' in answer.text
        assert two.bodies == []

    async def test_a_long_prefill_is_bridged_by_comments(self, open_client, one):
        client = await open_client(ROUTING_KEEP_ALIVE_S="0.05")
        asking = asyncio.create_task(client.post(CHAT, json=body("late", stream=True)))
        await until(lambda: one.open == 1)
        await asyncio.sleep(0.2)

        one.release.set()
        answer = await asking

        assert answer.text.startswith(": keep-alive\n\n")
        assert answer.text.endswith("data: [DONE]\n\n")

    async def test_a_failure_after_a_comment_is_told_in_the_stream(self, open_client, one):
        client = await open_client(ROUTING_KEEP_ALIVE_S="0.05", ROUTING_IDLE_TIMEOUT_S="0.3")

        answer = await client.post(CHAT, json=body("hangs-first", stream=True))

        assert answer.status_code == 200
        last = answer.text.strip().splitlines()[-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "upstream_silent"

    async def test_who_says_nothing_of_substance_is_left_at_the_deadline(self, client, two):
        await put(client, "fast", ("one", "hangs-first"), ("two", "good"), deadline_s=0.2)

        answer = await client.post(CHAT, json=body("fast", stream=True))

        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "upstream_silent")


class TestLeaving:
    @pytest_asyncio.fixture(loop_scope="module")
    async def door(self, tmp_path, one):
        variables = {"EXTERNAL_ONE_KEY": "sk", "ONE_BASE_URL": one.base_url}
        house = Insula(environment(prepare(tmp_path / "data"), **variables, ROUTING_PARALLEL="1"))
        door = house.door()
        async with alive(door):
            door.house = house
            await module(door, "routing").registry.ready_list()
            yield door

    async def rows(self, door) -> list:
        meter = module(door, "billing").meter
        await meter.flush()

        async with door.house.db.read() as session:
            return list(await session.scalars(select(UsageRow).order_by(UsageRow.id)))

    async def test_while_waiting_for_a_whole_answer_cuts_the_upstream(self, door, one):
        caller = Caller(door, CHAT, json.dumps(body("slow")).encode())
        await until(lambda: one.open == 1)

        caller.hang_up()

        await until(lambda: one.cut == 1)
        await caller.running
        (row,) = await self.rows(door)
        assert (row.outcome, row.status, row.is_estimated) == ("abandoned", 499, True)
        assert row.input_tokens > 0

    async def test_while_waiting_for_the_first_event_cuts_the_upstream(self, door, one):
        caller = Caller(door, CHAT, json.dumps(body("hangs-first", stream=True)).encode())
        await until(lambda: one.open == 1)

        caller.hang_up()

        await until(lambda: one.cut == 1)
        await caller.running
        (row,) = await self.rows(door)
        assert (row.outcome, row.output_tokens) == ("abandoned", 0)

    async def test_in_the_middle_of_a_stream_cuts_the_upstream_and_bills_what_passed(
        self, door, one
    ):
        caller = Caller(door, CHAT, json.dumps(body("slow", stream=True)).encode())
        await until(lambda: len(caller.heard) >= 2)

        caller.hang_up()

        await until(lambda: one.cut == 1)
        await caller.running
        (row,) = await self.rows(door)
        assert (row.outcome, row.is_estimated) == ("abandoned", True)
        assert row.output_tokens >= 1

    async def test_while_queued_asks_nobody_and_bills_nothing(self, door, one):
        first = Caller(door, CHAT, json.dumps(body("slow")).encode())
        await until(lambda: one.open == 1)
        queued = Caller(door, CHAT, json.dumps(body("slow")).encode())
        gates = module(door, "routing").gates
        await until(lambda: gates.health()[0].queued == 1)

        queued.hang_up()
        await queued.running
        one.release.set()
        await first.running

        rows = await self.rows(door)
        abandoned = next(row for row in rows if row.outcome == "abandoned")
        assert (len(one.bodies), abandoned.input_tokens, abandoned.attempts) == (1, 0, 0)

    async def test_the_next_call_finds_a_free_place(self, door, one):
        for stream in (False, True):
            caller = Caller(door, CHAT, json.dumps(body("slow", stream=stream)).encode())
            await until(lambda: one.open == 1)
            caller.hang_up()
            await caller.running
            await until(lambda: one.open == 0)

        last = Caller(door, CHAT, json.dumps(body()).encode())
        await last.running

        assert last.heard[0]["status"] == 200


class TestReadingToTheEnd:
    @pytest.mark.parametrize("stream", [False, True])
    async def test_a_caller_who_left_is_billed_exactly(self, tmp_path, one, stream):
        variables = {
            "EXTERNAL_ONE_KEY": "sk",
            "ONE_BASE_URL": one.base_url,
            "ROUTING_READ_TO_END": "one",
        }
        house = Insula(environment(prepare(tmp_path / "data"), **variables))
        door = house.door()
        door.house = house
        async with alive(door):
            await module(door, "routing").registry.ready_list()
            caller = Caller(door, CHAT, json.dumps(body("slow", stream=stream)).encode())
            await until(lambda: one.open == 1)
            caller.hang_up()
            await caller.running
            one.release.set()
            await until(lambda: one.open == 0)

            (row,) = await TestLeaving().rows(door)

        assert one.cut == 0
        assert (row.outcome, row.is_estimated) == ("abandoned", False)
        assert (row.input_tokens, row.output_tokens) == (7, 5)


class TestCache:
    TTL = {"x-cache-ttl": "60"}  # noqa: RUF012 - a constant

    async def test_an_equal_request_is_answered_without_the_model(self, client, one):
        first = await client.post(CHAT, json=body(), headers=self.TTL)
        second = await client.post(CHAT, json=body(), headers=self.TTL)

        assert [a.headers["x-cache"] for a in (first, second)] == ["miss", "hit"]
        assert first.content == second.content
        assert len(one.bodies) == 1

    async def test_a_hit_costs_nothing_and_leaves_its_row(self, client):
        for _ in range(2):
            await client.post(CHAT, json=body(), headers=self.TTL)

        rows = await usages(client)
        assert [row["is_cached"] for row in rows] == [False, True]
        assert (rows[1]["cost_nanos"], rows[1]["input_tokens"], rows[1]["outcome"]) == (
            0,
            0,
            "completed",
        )

    async def test_a_stream_is_replayed_as_a_stream(self, client, one):
        answers = [
            await client.post(CHAT, json=body(stream=True), headers=self.TTL) for _ in range(2)
        ]

        assert answers[1].headers["content-type"].startswith("text/event-stream")
        assert answers[0].text == answers[1].text
        assert len(one.bodies) == 1

    async def test_is_off_unless_it_is_asked_for(self, client, one):
        for _ in range(2):
            answer = await client.post(CHAT, json=body())

        assert answer.headers["x-cache"] == "bypass"
        assert len(one.bodies) == 2

    async def test_a_key_can_ask_for_it_once_and_a_request_can_decline(self, client, one):
        key = await new_key(client, scopes=["inference"])
        await client.put("/api/v1/routing/cache", json={"ttl_s": 60}, headers=key)

        states = [
            (await client.post(CHAT, json=body(), headers=key | more)).headers["x-cache"]
            for more in ({}, {}, {"cache-control": "no-cache"})
        ]

        assert states == ["miss", "hit", "bypass"]
        assert len(one.bodies) == 2

    async def test_a_failure_is_not_kept(self, client, one):
        for _ in range(2):
            await client.post(CHAT, json=body("error-500"), headers=self.TTL)
            await client.post(CHAT, json=body("ends-early", stream=True), headers=self.TTL)

        assert len(one.bodies) == 4

    async def test_no_answer_crosses_from_one_tenant_to_another(self, client, one):
        callers = [{}] + [await new_user(client) for _ in range(3)]
        for caller in callers:
            for stream in (False, True):
                answer = await client.post(
                    CHAT, json=body(stream=stream), headers=self.TTL | caller
                )
                assert answer.headers["x-cache"] == "miss"

        assert len(one.bodies) == len(callers) * 2

    @pytest.mark.parametrize("ttl", ["-1", "x", "1.5", "99999999"])
    async def test_a_wrong_lifetime_is_400(self, client, ttl):
        answer = await client.post(CHAT, json=body(), headers={"x-cache-ttl": ttl})

        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "X-Cache-TTL")


class TestOwnKey:
    OWN = {"x-provider-key": "sk-callers-own-0123456789"}  # noqa: RUF012 - a constant

    async def test_is_used_for_the_call_and_costs_us_nothing(self, client, one):
        answer = await client.post(CHAT, json=body(), headers=self.OWN)

        assert answer.status_code == 200
        assert one.authorizations == ["Bearer sk-callers-own-0123456789"]
        (row,) = await usages(client)
        assert (row["is_own_key"], row["cost_nanos"], row["price_version"]) == (True, 0, "own-key")

    async def test_reaches_no_second_provider(self, client, one, two):
        await put(client, "fast", ("one", "error-500"), ("two", "good"))

        answer = await client.post(CHAT, json=body("fast"), headers=self.OWN)

        assert answer.status_code == 500
        assert (len(one.bodies), two.bodies) == (1, [])

    async def test_that_the_provider_refuses_is_the_callers_trouble(self, client):
        answer = await client.post(CHAT, json=body("error-401"), headers=self.OWN)

        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "scripted")

    async def test_is_not_answered_from_the_cache_nor_kept_there(self, client, one):
        for headers in ({}, self.OWN, self.OWN):
            await client.post(CHAT, json=body(), headers=headers | {"x-cache-ttl": "60"})

        assert len(one.bodies) == 3

    async def test_goes_to_no_server_that_is_no_provider(self, open_client):
        client = await open_client(ROUTING_DEV_MODEL="on")

        answer = await client.post(CHAT, json=body("dev/echo"), headers=self.OWN)

        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "X-Provider-Key")

    @pytest.mark.parametrize("key", ["x" * 600, "caf\xe9"])
    async def test_that_is_none_is_400(self, client, one, key):
        answer = await client.post(
            CHAT, json=body(), headers={"x-provider-key": key.encode("latin-1")}
        )

        assert answer.status_code == 400
        assert one.bodies == []


class TestKeys:
    async def test_a_refused_key_gives_way_to_the_next(self, client, one):
        one.refused = {"sk-one-1"}

        answers = [await client.post(CHAT, json=body()) for _ in range(3)]

        assert [answer.status_code for answer in answers] == [200, 200, 200]
        assert one.authorizations.count("Bearer sk-one-1") == 1


class TestExplain:
    async def test_says_where_a_call_would_go_and_why_not_elsewhere(self, client, one, two):
        await put(client, "fast", ("one", "good"), ("two", "good"))

        answer = await client.post(
            "/api/v1/routing/explain", json=body("fast", provider={"ignore": ["one"]})
        )

        found = answer.json()
        assert [place["upstream"] for place in found["order"]] == ["two"]
        dropped = next(r for r in found["reasons"] if r["verdict"] == "dropped")
        assert (dropped["upstream"], "ignore" in dropped["reason"]) == ("one", True)
        assert (one.bodies, two.bodies, await usages(client)) == ([], [], [])

    async def test_an_unknown_model_is_404(self, client):
        answer = await client.post("/api/v1/routing/explain", json=body("nobody"))

        assert answer.status_code == 404


class TestUpstreams:
    async def test_shows_how_they_are(self, client):
        await client.post(CHAT, json=body())
        await client.post(CHAT, json=body("error-500"))

        (found,) = (await client.get("/api/v1/routing/upstreams")).json()["items"]

        assert (found["name"], found["state"], found["in_flight"]) == ("one", "closed", 0)
        assert (found["calls"], found["failures"]) == (2, 1)


class TestAffinity:
    async def test_llmd_is_given_a_stable_mark_that_tells_nothing(self, tmp_path, one):
        endpoint = one.base_url.removesuffix("/v1")
        async with open_house(prepare(tmp_path / "data"), LLMD_ENDPOINT=endpoint) as (_, client):
            client.headers.update(AUTHORIZED)
            for user in ("ann", "ann", "bob"):
                await client.post(CHAT, json=body("llmd/good", user=user))

        assert one.sessions[0] == one.sessions[1] != one.sessions[2]
        assert len(one.sessions[0]) == 16
