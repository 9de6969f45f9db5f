"""HTTP of billing: statuses, shapes, and who may call what."""

import argparse
import csv
import io
from uuid import UUID

import httpx
import pytest

from app.kernel.db import uuid7
from app.kernel.errors import NotFound
from app.kernel.module import Command
from tests.modules.billing.calls import usage
from tests.modules.billing.desks import OWNER, Office

USAGE = "/api/v1/usage"
LIMITS = "/api/v1/billing/limits"
ACCOUNTS = "/api/v1/billing/accounts"
DAY = 86_400_000


def problem(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["type"].removeprefix("urn:problem:")


def sheet(answer: httpx.Response) -> list[list[str]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    return list(csv.reader(io.StringIO(answer.text)))


async def anna(office: Office, *models: str, **changes) -> dict[str, str]:
    """A user who has called these models, the last one latest."""
    headers = await office.sign_up("anna")
    user_id = UUID(await office.user_id(headers))
    for number, model in enumerate(models):
        when = {"started_at_ms": number * DAY}
        office.billing.meter.settle(usage(user_id=user_id, model=model, **(when | changes)))
    return headers


class TestUsage:
    async def test_pages_of_receipts_newest_first(self, office):
        headers = await anna(office, "a", "b", "c")

        first = (await office.client.get(f"{USAGE}?limit=2", headers=headers)).json()
        cursor = {"limit": 2, "cursor": first["next"]}
        second = (await office.client.get(USAGE, params=cursor, headers=headers)).json()

        assert [one["model"] for one in first["items"]] == ["c", "b"]
        assert [one["model"] for one in second["items"]] == ["a"]
        assert second["next"] is None

    async def test_a_receipt_says_what_is_known_of_the_call(self, office):
        headers = await anna(office, "a", upstream_model="a-1", attempts=2, is_estimated=True)

        (one,) = (await office.client.get(USAGE, headers=headers)).json()["items"]

        assert (one["upstream_model"], one["attempts"], one["is_estimated"]) == ("a-1", 2, True)
        assert (one["cost_nanos"], one["currency"]) == (None, None)

    async def test_selects_by_model_and_time(self, office):
        headers = await anna(office, "a", "b", "b")
        wanted = {"model": "b", "from_ms": DAY, "to_ms": 2 * DAY}

        answer = await office.client.get(USAGE, params=wanted, headers=headers)

        assert [one["started_at_ms"] for one in answer.json()["items"]] == [DAY]

    async def test_shows_nothing_of_anybody_else(self, office):
        await anna(office, "a")
        otto = await office.sign_up("otto")

        assert (await office.client.get(USAGE, headers=otto)).json()["items"] == []

    @pytest.mark.parametrize(
        ("by", "groups"), [("day", ["1970-01-02", "1970-01-01"]), ("model", ["a", "b"])]
    )
    async def test_sums_in_pages(self, office, by, groups):
        headers = await anna(office, "a", "b", cost_nanos=5, currency="EUR", input_tokens=7)

        first = await office.client.get(f"{USAGE}?by={by}&limit=1", headers=headers)
        cursor = {"by": by, "limit": 1, "cursor": first.json()["next"]}
        second = await office.client.get(USAGE, params=cursor, headers=headers)

        found = [first.json()["items"][0], second.json()["items"][0]]
        assert [one["group"] for one in found] == groups
        assert found[0]["costs_nanos"] == {"EUR": 5}
        assert (found[0]["calls"], found[0]["input_tokens"], found[0]["unpriced_calls"]) == (
            1,
            7,
            0,
        )

    @pytest.mark.parametrize(
        "query",
        [
            "limit=0",
            "limit=501",
            "limit=many",
            "by=colour",
            "format=xml",
            "key_id=me",
            "from_ms=yesterday",
            "cursor=me",
            "by=day&cursor=me",
            "by=key&cursor=me",
        ],
    )
    async def test_a_wrong_question_is_refused(self, office, query):
        answer = await office.client.get(f"{USAGE}?{query}", headers=OWNER)

        assert problem(answer)[0] == 400

    async def test_needs_somebody(self, office):
        assert problem(await office.client.get(USAGE))[0] == 401

    async def test_a_sheet_has_every_row_and_runs_no_formula(self, office):
        headers = await anna(office, "=HYPERLINK()", "b")

        head, *rows = sheet(await office.client.get(f"{USAGE}?format=csv&limit=1", headers=headers))

        model = head.index("model")
        assert [row[model] for row in rows] == ["b", "'=HYPERLINK()"]
        assert rows[0][head.index("cost_nanos")] == ""

    async def test_a_sheet_of_sums_has_the_money_in_its_last_column(self, office):
        headers = await anna(office, "a", cost_nanos=1_500_000_000, currency="USD")

        answer = await office.client.get(f"{USAGE}?by=model&format=csv", headers=headers)

        head, row = sheet(answer)
        assert dict(zip(head, row, strict=True))["costs_nanos"] == "1.500000000 USD"
        assert 'filename="usage-by-model.csv"' in answer.headers["content-disposition"]

    async def test_a_browser_that_asks_for_a_sheet_gets_one(self, office):
        headers = await anna(office, "a")

        answer = await office.client.get(USAGE, headers=headers | {"accept": "text/csv"})

        assert len(sheet(answer)) == 2

    async def test_what_the_address_says_is_stronger_than_what_is_accepted(self, office):
        accept = OWNER | {"accept": "text/csv"}

        answer = await office.client.get(f"{USAGE}?format=json", headers=accept)

        assert answer.json() == {"items": [], "next": None}


class TestLimits:
    async def test_of_an_owner_are_none(self, office):
        answer = await office.client.get(LIMITS, headers=OWNER)

        assert (answer.status_code, answer.json()) == (200, {"tier": None, "limits": []})

    async def test_of_a_user_are_those_of_the_tier(self, office):
        headers = await office.sign_up("anna")

        found = (await office.client.get(LIMITS, headers=headers)).json()

        assert found["tier"] == "free"
        assert [(one["name"], one["limit"], one["left"]) for one in found["limits"]] == [
            ("rpm", 20, 20),
            ("tpm", 100_000, 100_000),
            ("parallel", 4, 4),
            ("budget", 1_000_000_000, 1_000_000_000),
        ]
        assert found["limits"][3]["period"] == "month"

    async def test_a_key_sees_its_own_and_its_users(self, office):
        headers = await office.sign_up("anna")
        key_id, key = await office.make_key(headers, "read")
        await office.client.put(f"{LIMITS}/key/{key_id}", json={"rpm": 2}, headers=headers)

        found = (await office.client.get(LIMITS, headers=key)).json()["limits"]

        assert (found[0]["name"], found[0]["holder"], found[0]["limit"]) == ("rpm", "key", 2)
        assert len(found) == 5


class TestPutLimits:
    async def test_answers_what_holds_from_now_on(self, office):
        headers = await office.sign_up("anna")
        key_id, _ = await office.make_key(headers)
        body = {"tpm": 5, "budget_nanos": 7, "budget_period": "day"}

        answer = await office.client.put(f"{LIMITS}/key/{key_id}", json=body, headers=headers)

        assert answer.status_code == 200
        unset = {"rpm": None, "parallel": None}
        assert answer.json() == {"kind": "key", "id": key_id} | body | unset

    async def test_a_key_that_may_only_read_may_not(self, office):
        headers = await office.sign_up("anna")
        key_id, key = await office.make_key(headers, "read")

        answer = await office.client.put(f"{LIMITS}/key/{key_id}", json={}, headers=key)

        assert problem(answer) == (403, "scope-missing")

    async def test_somebody_elses_key_is_not_there(self, office):
        key_id, _ = await office.make_key(await office.sign_up("anna"))
        otto = await office.sign_up("otto")

        answer = await office.client.put(f"{LIMITS}/key/{key_id}", json={}, headers=otto)

        assert problem(answer) == (404, "subject-not-found")

    async def test_an_account_is_the_owners_to_limit(self, office):
        headers = await office.sign_up("anna")
        path = f"{LIMITS}/user/{await office.user_id(headers)}"

        refused = await office.client.put(path, json={"rpm": 1}, headers=headers)
        done = await office.client.put(path, json={"rpm": 1}, headers=OWNER)

        assert problem(refused) == (403, "owner-only")
        assert done.json()["rpm"] == 1

    @pytest.mark.parametrize(
        "body",
        [
            {"rpm": -1},
            {"rpm": 1.5},
            {"rpm": "many"},
            {"tpm": 1 << 53},
            {"budget_period": "week"},
            {"rps": 1},
            [],
        ],
    )
    async def test_wrong_limits_are_refused(self, office, body):
        path = f"{LIMITS}/key/{uuid7()}"

        assert problem(await office.client.put(path, json=body, headers=OWNER))[0] == 400

    @pytest.mark.parametrize("path", ["team/00000000-0000-7000-8000-000000000000", "key/me"])
    async def test_wrong_subjects_are_refused(self, office, path):
        answer = await office.client.put(f"{LIMITS}/{path}", json={}, headers=OWNER)

        assert problem(answer)[0] in {400, 404}


class TestDropLimits:
    async def test_answers_204_each_time(self, office):
        headers = await office.sign_up("anna")
        key_id, _ = await office.make_key(headers)
        path = f"{LIMITS}/key/{key_id}"
        await office.client.put(path, json={"rpm": 1}, headers=headers)

        answers = [await office.client.delete(path, headers=headers) for _ in range(2)]

        assert [answer.status_code for answer in answers] == [204, 204]

    async def test_somebody_elses_key_is_not_there(self, office):
        key_id, _ = await office.make_key(await office.sign_up("anna"))
        otto = await office.sign_up("otto")

        answer = await office.client.delete(f"{LIMITS}/key/{key_id}", headers=otto)

        assert problem(answer)[0] == 404


class TestPutTier:
    async def test_counts_from_the_next_request_on(self, office):
        headers = await office.sign_up("anna")
        await office.client.get(LIMITS, headers=headers)
        user_id = await office.user_id(headers)

        answer = await office.client.put(
            f"{ACCOUNTS}/{user_id}", json={"tier": "team"}, headers=OWNER
        )

        assert (answer.status_code, answer.json()) == (200, {"user_id": user_id, "tier": "team"})
        found = (await office.client.get(LIMITS, headers=headers)).json()
        assert (found["tier"], found["limits"][0]["limit"]) == ("team", 200)

    async def test_is_the_owners_alone(self, office):
        headers = await office.sign_up("anna")
        path = f"{ACCOUNTS}/{await office.user_id(headers)}"

        answer = await office.client.put(path, json={"tier": "team"}, headers=headers)

        assert problem(answer) == (403, "owner-only")

    @pytest.mark.parametrize(
        "body", [{}, {"tier": "gold"}, {"tier": None}, {"tier": "pro", "x": 1}]
    )
    async def test_a_wrong_tier_is_refused(self, office, body):
        answer = await office.client.put(f"{ACCOUNTS}/{uuid7()}", json=body, headers=OWNER)

        assert problem(answer)[0] == 400

    async def test_nobodys_account_is_not_there(self, office):
        path = f"{ACCOUNTS}/{uuid7()}"

        answer = await office.client.put(path, json={"tier": "pro"}, headers=OWNER)

        assert problem(answer)[0] == 404


class TestUsageCommand:
    def command(self, office: Office) -> Command:
        (found,) = office.billing.commands()
        return found

    async def run(self, office: Office, *words: str) -> str:
        command = self.command(office)
        parser = argparse.ArgumentParser()
        command.arguments(parser)
        return await command.run(parser.parse_args(words))

    async def test_prints_days_of_everybody(self, office):
        await anna(office, "a", "b", input_tokens=10, cost_nanos=5, currency="EUR")

        lines = (await self.run(office)).splitlines()

        assert lines[0].split() == [
            "day", "calls", "input", "output", "cached", "reasoning", "unpriced", "cost",
        ]  # fmt: skip
        assert lines[1].split() == [
            "1970-01-02",
            "1",
            "10",
            "0",
            "0",
            "0",
            "0",
            "0.000000005",
            "EUR",
        ]
        assert len({len(line) for line in lines}) == 1

    async def test_prints_one_account_alone(self, office):
        await anna(office, "a")
        await office.sign_up("otto")

        mine = await self.run(office, "--by", "model", "--user", "anna@example.org")
        others = await self.run(office, "--by", "model", "--user", "otto@example.org")

        assert len(mine.splitlines()) == 2
        assert len(others.splitlines()) == 1

    async def test_an_unknown_account_is_named(self, office):
        with pytest.raises(NotFound, match="who@example"):
            await self.run(office, "--user", "who@example.org")

    async def test_prints_from_a_day_on(self, office):
        await anna(office, "a", "b", "c")

        lines = (await self.run(office, "--since", "1970-01-02")).splitlines()

        assert [line.split()[0] for line in lines[1:]] == ["1970-01-03", "1970-01-02"]

    async def test_prints_a_sheet(self, office):
        await anna(office, "=a", cost_nanos=5, currency="EUR")

        head, row = csv.reader(io.StringIO(await self.run(office, "--by", "model", "--csv")))

        assert (head[0], row[0], row[-1]) == ("group", "'=a", "0.000000005 EUR")

    @pytest.mark.parametrize("words", [("--by", "colour"), ("--since", "monday")])
    async def test_a_wrong_word_is_refused(self, office, words, capsys):
        with pytest.raises(SystemExit):
            await self.run(office, *words)

        assert words[0] in capsys.readouterr().err
