"""The response cache: whose answer is whose."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.adapters.cache.memory import MemoryCache
from app.kernel.errors import Unavailable
from app.modules.auth.api import Principal
from app.modules.routing.domain.envelope import Envelope
from app.modules.routing.service.answers import ANSWER_LIMIT_BYTES, AnswerCache
from app.modules.routing.service.orders import Order

ANNA, BERT = UUID(int=1), UUID(int=2)


def order(user_id: UUID, body: bytes, surface: str = "chat/completions") -> Order:
    principal = Principal(user_id, "key", user_id, "member", frozenset({"full"}))
    return Order(principal, surface, body, Envelope())


class DeadCache(MemoryCache):
    async def get(self, key: str) -> bytes | None:
        raise Unavailable

    async def set(self, key: str, value: bytes, *, ttl_s: float) -> None:
        raise Unavailable


class TestFind:
    @given(
        st.lists(
            st.tuples(
                st.sampled_from([ANNA, BERT]),
                st.sampled_from(["chat/completions", "completions"]),
                st.binary(max_size=4),
            ),
            min_size=1,
            max_size=30,
        )
    )
    async def test_nothing_crosses_from_one_tenant_or_request_to_another(self, asked):
        answers = AnswerCache(MemoryCache())
        for user_id, surface, body in asked:
            told = f"{user_id.int} {surface} ".encode() + body
            await answers.keep(order(user_id, body, surface), "text/plain", told, ttl_s=60)

        for user_id in (ANNA, BERT):
            for _, surface, body in asked:
                found = await answers.find(order(user_id, body, surface))
                was_asked = (user_id, surface, body) in asked
                told = f"{user_id.int} {surface} ".encode() + body
                assert (found.body if found else None) == (told if was_asked else None)

    async def test_a_damaged_one_is_a_miss(self):
        cache = MemoryCache()
        answers, asked = AnswerCache(cache), order(ANNA, b"{}")
        await answers.keep(asked, "text/plain", b"x", ttl_s=60)
        (key,) = cache._entries
        await cache.set(key, b"\xc1", ttl_s=60)

        assert await answers.find(asked) is None

    async def test_without_a_cache_every_request_is_a_miss(self):
        answers, asked = AnswerCache(DeadCache()), order(ANNA, b"{}")

        await answers.keep(asked, "text/plain", b"x", ttl_s=60)

        assert await answers.find(asked) is None


class TestKeep:
    @pytest.mark.parametrize(("size", "is_kept"), [(0, True), (1, False)])
    async def test_a_very_long_one_is_not_kept(self, size, is_kept):
        answers, asked = AnswerCache(MemoryCache()), order(ANNA, b"{}")

        await answers.keep(asked, "text/plain", b"x" * (ANSWER_LIMIT_BYTES + size), ttl_s=60)

        assert (await answers.find(asked) is not None) == is_kept
