"""The two placeholders answer in the sidecar's shape, to whoever may call a model."""

import pytest

from tests.house import AUTHORIZED, open_house, prepare


@pytest.fixture
async def client(tmp_path):
    async with open_house(prepare(tmp_path / "data")) as (_, client):
        yield client


class TestChat:
    async def test_answers_501_with_a_message_and_a_status(self, client):
        body = {"message": "hello", "context": {"page": "home"}}

        answer = await client.post("/api/v1/chat", json=body, headers=AUTHORIZED)

        assert answer.status_code == 501
        assert set(answer.json()) == {"message", "status"}
        assert answer.json()["status"] == "not_implemented"
        assert answer.json()["message"]

    async def test_is_closed_without_a_key(self, client):
        assert (await client.post("/api/v1/chat", json={"message": "hello"})).status_code == 401


class TestSuggest:
    async def test_answers_501_with_no_suggestions(self, client):
        body = {"text": "how do I", "context": {}}

        answer = await client.post("/api/v1/suggest", json=body, headers=AUTHORIZED)

        assert answer.status_code == 501
        assert answer.json() == {"suggestions": [], "status": "not_implemented"}
