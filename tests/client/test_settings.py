"""What a client is given, and what it shows of that."""

import logging

import pytest

from ai_spine import DEFAULT_BASE_URL, AISpine, AsyncAISpine, ValidationError
from tests.client.callers import KEY


class TestDefaults:
    def test_are_the_contract_s(self):
        with AISpine() as client:
            assert client.base_url == DEFAULT_BASE_URL
            assert DEFAULT_BASE_URL == "https://ai-spine-api-production.up.railway.app"
            assert (client.timeout, client.max_retries) == (30, 3)
            assert (client.api_key, client.debug) == (None, False)

    async def test_are_the_same_for_both(self):
        async with AsyncAISpine() as client:
            assert client.base_url == DEFAULT_BASE_URL
            assert (client.timeout, client.max_retries) == (30, 3)
            assert (client.api_key, client.debug) == (None, False)

    def test_are_not_taken_from_the_environment(self, monkeypatch):
        monkeypatch.setenv("AI_SPINE_BASE_URL", "http://elsewhere.test")
        monkeypatch.setenv("AI_SPINE_API_KEY", KEY)

        with AISpine() as client:
            assert (client.base_url, client.api_key) == (DEFAULT_BASE_URL, None)


class TestBaseUrl:
    def test_may_have_a_path_and_a_slash(self):
        with AISpine(base_url="http://spine.test/spine/") as client:
            assert client.base_url == "http://spine.test/spine"

    @pytest.mark.parametrize(
        "bad",
        [
            "spine.test",
            "ftp://spine.test",
            "http://",
            "http://user:secret@spine.test",
            "http://spine.test?a=1",
            "http://spine.test#a",
            "http://spine.test:port",
            "http://spine.test:99999",
            "http://[",
            "http://spine.test/\x01",
            "file:///etc/passwd",
        ],
    )
    def test_is_refused(self, bad):
        with pytest.raises(ValidationError, match="base_url") as raised:
            AISpine(base_url=bad)
        assert "secret" not in str(raised.value)


class TestKey:
    @pytest.mark.parametrize("bad", [f"{KEY}\n", f"{KEY} x", f"{KEY}é", f'{KEY}"', f"{KEY}\\"])
    def test_is_refused_without_being_shown(self, bad):
        with pytest.raises(ValidationError, match="api_key") as raised:
            AISpine(api_key=bad)
        assert KEY not in str(raised.value)

    @pytest.mark.parametrize("kind", [AISpine, AsyncAISpine])
    def test_is_in_no_text_of_the_client(self, kind):
        client = kind(KEY, "http://spine.test")

        assert repr(client) == f"{kind.__name__}(base_url='http://spine.test')"
        assert KEY not in f"{client} {vars(client)}"
        assert client.api_key == KEY


class TestLimits:
    @pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf"), 86_401, True, "30", None])
    def test_of_the_time(self, bad):
        with pytest.raises(ValidationError, match="timeout"):
            AISpine(timeout=bad)

    @pytest.mark.parametrize("bad", [-1, 11, 1.5, "3", None])
    def test_of_the_retries(self, bad):
        with pytest.raises(ValidationError, match="max_retries"):
            AISpine(max_retries=bad)


class TestDebug:
    @pytest.fixture
    def log(self):
        log = logging.getLogger("ai_spine")
        before = (log.level, log.handlers, log.propagate)
        yield log
        log.level, log.handlers, log.propagate = before

    def test_shows_its_lines_where_nobody_shows_any(self, log):
        log.handlers, log.propagate = [], False

        AISpine(debug=True).close()
        AISpine(debug=True).close()

        assert log.level == logging.DEBUG
        assert len(log.handlers) == 1

    def test_leaves_a_log_alone_that_is_shown(self, log):
        AISpine(debug=True).close()

        assert log.handlers == []
