"""Conversations: kept, gone on with, looked at, forgotten."""

import json
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import select, update

from app.kernel.db import Database, uuid7
from app.kernel.jobs import JobBook
from app.kernel.keys import AesGcmSeal, Keyring
from app.modules.routing.domain.responses.from_chat import response_answer
from app.modules.routing.domain.responses.ids import response_id
from app.modules.routing.domain.responses.to_chat import chat_request
from app.modules.routing.models import ResponseRow
from app.modules.routing.service.conversations import (
    CONVERSATION_LIMIT,
    CONVERSATION_LIMIT_BYTES,
    KEEP,
    Conversations,
    ConversationTooLong,
    ItemNotFound,
    ResponseNotFound,
)
from tests.modules.routing.responses.cases import CREATED_S, request
from tests.modules.routing.responses.conftest import SECRET

ANNA, BERT = uuid7(), uuid7()
DAY_S = timedelta(days=1).total_seconds()


def answered(text: str = "Hello!", call_id: UUID | None = None, **members) -> tuple[str, bytes]:
    """The id and the body of an answer to a request with these members."""
    name = response_id(call_id or uuid7())
    chat = {"choices": [{"message": {"role": "assistant", "content": text}}]}
    body = response_answer(json.dumps(chat).encode(), request(**members), name, CREATED_S)
    return name, body


async def say(conversations, text: str, previous: str | None = None, user_id: UUID = ANNA) -> str:
    """One turn: recall, answer, keep; returns the response's id."""
    members = {"input": text, "previous_response_id": previous}
    recalled = await conversations.recall(user_id, request(**members))
    name, body = answered(f"{text}!", **members)
    await conversations.keep(user_id, recalled.request, body)
    return name


async def said_before(conversations, previous: str, user_id: UUID = ANNA) -> list[str]:
    """What a model would be told of the conversation."""
    recalled = await conversations.recall(user_id, request(previous_response_id=previous, input=[]))
    messages = json.loads(chat_request(recalled.request, recalled.history))["messages"]
    return [message["content"] for message in messages]


async def change(db: Database, name: str, **values) -> None:
    async with db.begin() as session:
        row = update(ResponseRow).where(ResponseRow.id == UUID(hex=name.partition("_")[2]))
        await session.execute(row.values(**values))


def contents(folder: Path) -> list[bytes]:
    """Every file of the database."""
    return [path.read_bytes() for path in folder.iterdir()]


class TestRecall:
    async def test_tells_the_whole_conversation_oldest_first(self, conversations):
        first = await say(conversations, "One")
        second = await say(conversations, "Two", first)

        assert await said_before(conversations, second) == ["One", "One!", "Two", "Two!"]

    async def test_conversations_may_fork(self, conversations):
        first = await say(conversations, "One")
        await say(conversations, "Two", first)
        other = await say(conversations, "Three", first)

        assert await said_before(conversations, other) == ["One", "One!", "Three", "Three!"]

    @pytest.mark.parametrize("previous", [None, ""])
    async def test_without_anything_to_look_up_it_asks_nobody(self, conversations, previous):
        asked = request(previous_response_id=previous)

        recalled = await conversations.recall(ANNA, asked)

        assert (recalled.request, recalled.history) == (asked, ())

    @pytest.mark.parametrize(
        "previous",
        ["nonsense", "resp_", response_id(uuid7()), f"msg_{uuid7().hex}_0", "resp_" + "x" * 32],
        ids=["nonsense", "empty", "unknown", "item", "no-hex"],
    )
    async def test_an_unknown_response_is_not_found(self, conversations, previous):
        with pytest.raises(ResponseNotFound) as refused:
            await conversations.recall(ANNA, request(previous_response_id=previous))

        assert refused.value.extra["param"] == "previous_response_id"

    async def test_somebody_elses_response_is_not_found(self, conversations):
        first = await say(conversations, "One")

        with pytest.raises(ResponseNotFound) as refused:
            await conversations.recall(BERT, request(previous_response_id=first))

        assert refused.value.extra["param"] == "previous_response_id"

    async def test_a_conversation_with_a_gap_is_not_gone_on_with(self, conversations):
        first = await say(conversations, "One")
        second = await say(conversations, "Two", first)
        await conversations.delete(ANNA, first)

        with pytest.raises(ResponseNotFound, match="deleted"):
            await conversations.recall(ANNA, request(previous_response_id=second))

    async def test_a_conversation_has_a_limit_of_responses(self, conversations, sqlite, clock):
        ids = [uuid7() for _ in range(CONVERSATION_LIMIT + 1)]
        async with sqlite.begin() as session:
            session.add_all(
                ResponseRow(
                    id=id_,
                    user_id=ANNA,
                    previous_id=previous,
                    size_bytes=1,
                    input_sealed=b"",
                    response_sealed=b"",
                    expires_at=clock.now + KEEP,
                )
                for previous, id_ in pairwise([None, *ids])
            )

        with pytest.raises(ConversationTooLong) as refused:
            await conversations.recall(ANNA, request(previous_response_id=response_id(ids[-1])))

        assert refused.value.extra["param"] == "previous_response_id"

    async def test_a_conversation_has_a_limit_of_bytes(self, conversations, sqlite):
        first = await say(conversations, "One")
        await change(sqlite, first, size_bytes=CONVERSATION_LIMIT_BYTES + 1)

        with pytest.raises(ConversationTooLong) as refused:
            await conversations.recall(ANNA, request(previous_response_id=first))

        assert refused.value.extra["param"] == "previous_response_id"

    async def test_puts_items_in_the_place_of_references(self, conversations):
        first = await say(conversations, "One")
        digits = first.removeprefix("resp_")
        items = [
            {"type": "item_reference", "id": f"msg_{digits}_i0"},
            {"id": f"msg_{digits}_0"},
            {"role": "user", "content": "Two"},
        ]

        recalled = await conversations.recall(ANNA, request(input=items))

        messages = json.loads(chat_request(recalled.request))["messages"]
        assert [message["content"] for message in messages] == ["One", "One!", "Two"]
        assert recalled.request.references == ()

    @pytest.mark.parametrize("name", ["msg_1", "msg_" + "0" * 31 + "7_0", "msg_{}_7", "fc_{}_0"])
    async def test_an_unknown_item_is_not_found(self, conversations, name):
        first = await say(conversations, "One")
        items = [{"id": name.format(first.removeprefix("resp_"))}]

        with pytest.raises(ItemNotFound) as refused:
            await conversations.recall(ANNA, request(input=items))

        assert refused.value.extra["param"] == "input"

    async def test_somebody_elses_item_is_not_found(self, conversations):
        first = await say(conversations, "One")
        items = [{"id": f"msg_{first.removeprefix('resp_')}_0"}]

        with pytest.raises(ItemNotFound):
            await conversations.recall(BERT, request(input=items))

    async def test_what_an_old_secret_sealed_is_still_told(self, conversations, sqlite, clock):
        first = await say(conversations, "One")
        seal = AesGcmSeal(
            Keyring(["a newer secret of the tests, 0123456789", SECRET]), "routing-sealing"
        )

        assert await said_before(Conversations(sqlite, seal, clock), first) == ["One", "One!"]

    async def test_what_was_sealed_with_a_lost_secret_is_not_found(
        self, conversations, sqlite, clock
    ):
        first = await say(conversations, "One")
        seal = AesGcmSeal(Keyring(["a newer secret of the tests, 0123456789"]), "routing-sealing")

        with pytest.raises(ResponseNotFound, match="APP_SECRET"):
            await said_before(Conversations(sqlite, seal, clock), first)


class TestKeep:
    async def test_keeps_nothing_against_the_callers_will(self, conversations):
        name, body = answered()

        await conversations.keep(ANNA, request(store=False), body)

        with pytest.raises(ResponseNotFound):
            await conversations.get(ANNA, name)

    async def test_keeps_nothing_that_failed(self, conversations):
        name = response_id(uuid7())
        body = response_answer(b'{"error":{}}', request(), name, CREATED_S)

        await conversations.keep(ANNA, request(), body)

        with pytest.raises(ResponseNotFound):
            await conversations.get(ANNA, name)

    async def test_keeps_what_a_reference_stood_for(self, conversations):
        first = await say(conversations, "One")
        asked = request(input=[{"id": f"msg_{first.removeprefix('resp_')}_0"}])
        recalled = await conversations.recall(ANNA, asked)
        name, body = answered()
        await conversations.keep(ANNA, recalled.request, body)

        await conversations.delete(ANNA, first)

        assert await said_before(conversations, name) == ["One!", "Hello!"]

    async def test_what_is_said_is_nowhere_in_the_database(self, conversations, sqlite, tmp_path):
        await say(conversations, "the-secret-of-anna")

        async with sqlite.read() as session:
            row = (await session.scalars(select(ResponseRow))).one()
        files = contents(tmp_path)
        assert any(row.input_sealed[:40] in text for text in files)
        assert not any(b"the-secret-of-anna" in text for text in files)

    async def test_a_text_that_was_moved_to_another_row_does_not_open(self, conversations, sqlite):
        first, second = await say(conversations, "One"), await say(conversations, "Two")
        async with sqlite.read() as session:
            rows = {row.id.hex: row for row in await session.scalars(select(ResponseRow))}

        moved = rows[first.removeprefix("resp_")].response_sealed
        await change(sqlite, second, response_sealed=moved)

        with pytest.raises(ResponseNotFound):
            await conversations.get(ANNA, second)

    async def test_an_answer_goes_out_when_the_database_is_down(self, tmp_path, clock):
        nowhere = Database(f"sqlite+insula:///{tmp_path}/no/where.db", JobBook())
        conversations = Conversations(
            nowhere, AesGcmSeal(Keyring([SECRET]), "routing-sealing"), clock
        )

        await conversations.keep(ANNA, request(), answered()[1])

        await nowhere.close()

    async def test_going_on_keeps_the_conversation_for_another_thirty_days(
        self, conversations, clock
    ):
        first = await say(conversations, "One")
        clock.advance(29 * DAY_S)
        second = await say(conversations, "Two", first)
        clock.advance(29 * DAY_S)

        assert await said_before(conversations, second) == ["One", "One!", "Two", "Two!"]


class TestGet:
    async def test_gives_the_response_as_it_was_sent(self, conversations):
        name, body = answered("Grüße")
        await conversations.keep(ANNA, request(), body)

        assert await conversations.get(ANNA, name) == body

    async def test_is_gone_after_thirty_days(self, conversations, clock):
        name = await say(conversations, "One")
        clock.advance(30 * DAY_S)

        with pytest.raises(ResponseNotFound) as refused:
            await conversations.get(ANNA, name)

        assert refused.value.extra["param"] == "response_id"

    @pytest.mark.parametrize("name", ["nonsense", "msg_{}_0", "resp_{}_0"])
    async def test_only_the_responses_own_name_finds_it(self, conversations, name):
        first = await say(conversations, "One")

        with pytest.raises(ResponseNotFound):
            await conversations.get(ANNA, name.format(first.removeprefix("resp_")))

    async def test_somebody_elses_is_not_found(self, conversations):
        name = await say(conversations, "One")

        with pytest.raises(ResponseNotFound):
            await conversations.get(BERT, name)


class TestInputItems:
    async def test_are_what_was_asked_each_with_an_id(self, conversations):
        first = await say(conversations, "One")
        second = await say(conversations, "Two", first)

        (item,) = await conversations.input_items(ANNA, second)

        assert item.id == f"msg_{second.removeprefix('resp_')}_i0"
        assert item.content[0].text == "Two"

    async def test_keep_the_ids_that_they_came_with(self, conversations):
        name, body = answered()
        items = [{"id": "mine", "role": "user", "content": "One"}]
        await conversations.keep(ANNA, request(input=items), body)

        (item,) = await conversations.input_items(ANNA, name)

        assert item.id == "mine"

    async def test_somebody_elses_are_not_found(self, conversations):
        name = await say(conversations, "One")

        with pytest.raises(ResponseNotFound):
            await conversations.input_items(BERT, name)


class TestDelete:
    async def test_forgets_it_once(self, conversations):
        name = await say(conversations, "One")

        await conversations.delete(ANNA, name)

        with pytest.raises(ResponseNotFound):
            await conversations.get(ANNA, name)
        with pytest.raises(ResponseNotFound) as refused:
            await conversations.delete(ANNA, name)
        assert refused.value.extra["param"] == "response_id"

    async def test_somebody_elses_stays(self, conversations):
        name = await say(conversations, "One")

        with pytest.raises(ResponseNotFound):
            await conversations.delete(BERT, name)

        assert await conversations.get(ANNA, name)


class TestSweep:
    async def test_drops_what_has_expired_and_nothing_else(self, conversations, sqlite, clock):
        await say(conversations, "One")
        clock.advance(20 * DAY_S)
        name = await say(conversations, "Two")
        clock.advance(20 * DAY_S)

        await conversations.sweep()

        async with sqlite.read() as session:
            rows = (await session.scalars(select(ResponseRow))).all()
        assert [response_id(row.id) for row in rows] == [name]

    async def test_a_second_delivery_changes_nothing(self, conversations):
        name = await say(conversations, "One")

        await conversations.sweep()
        await conversations.sweep()

        assert await conversations.get(ANNA, name)
