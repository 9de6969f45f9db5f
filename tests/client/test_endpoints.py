"""What is sent to which path, and what is not sent at all."""

import json

import pytest

from ai_spine import ValidationError
from ai_spine import _endpoints as endpoints

BAD_IDS = ["", "a/b", "..", "a b", "a?b", "a\n", "x" * 101, "é", None, 7]


class TestIds:
    @pytest.mark.parametrize("bad", BAD_IDS)
    @pytest.mark.parametrize(
        "build",
        [
            endpoints.get_flow,
            endpoints.list_flow_versions,
            endpoints.delete_flow,
            endpoints.get_execution,
            endpoints.cancel_execution,
            endpoints.get_execution_results,
            endpoints.list_messages,
            endpoints.stream_execution,
            endpoints.get_agent,
            endpoints.delete_agent,
        ],
    )
    def test_can_name_no_other_path(self, build, bad):
        with pytest.raises(ValidationError, match="_id is 1 to 100"):
            build(bad)

    @pytest.mark.parametrize("bad", [b for b in BAD_IDS if b is not None])
    def test_are_checked_in_bodies_and_queries(self, bad):
        for attempt in (
            lambda: endpoints.execute_flow(bad, {}),
            lambda: endpoints.list_executions(bad),
            lambda: endpoints.update_flow(bad, {"name": "x"}),
        ):
            with pytest.raises(ValidationError, match="flow_id"):
                attempt()


class TestExecuteFlow:
    def test_sends_what_was_given_and_nothing_else(self):
        call = endpoints.execute_flow("f", {"a": 1})

        assert (call.method, call.path) == ("POST", "/flows/execute")
        assert json.loads(call.content) == {"flow_id": "f", "input_data": {"a": 1}}

    def test_sends_every_option(self):
        call = endpoints.execute_flow(
            "f", {}, {"m": 1}, priority=0, timeout=2.5, version="1.0.1", idempotency_key="k"
        )

        sent = json.loads(call.content)
        assert sent["metadata"] == {"m": 1}
        assert (sent["priority"], sent["timeout"], sent["version"]) == (0, 2.5, "1.0.1")
        assert call.headers["Idempotency-Key"] == "k"

    def test_names_each_start_so_that_it_may_be_repeated(self):
        first, second = endpoints.execute_flow("f", {}), endpoints.execute_flow("f", {})

        assert first.retry
        assert first.headers["Idempotency-Key"] != second.headers["Idempotency-Key"]

    @pytest.mark.parametrize("bad", ["", "a b", "a\r\nb", "é", "x" * 256])
    def test_refuses_a_name_that_a_header_cannot_carry(self, bad):
        with pytest.raises(ValidationError, match="idempotency_key"):
            endpoints.execute_flow("f", {}, idempotency_key=bad)

    @pytest.mark.parametrize("bad", [None, [], "text", 1])
    def test_refuses_an_input_that_is_no_object(self, bad):
        with pytest.raises(ValidationError, match="input_data must be a dict"):
            endpoints.execute_flow("f", bad)

    @pytest.mark.parametrize("bad", [{"a": object()}, {"a": float("nan")}, {("a",): 1}])
    def test_refuses_an_input_that_is_no_json(self, bad):
        with pytest.raises(ValidationError, match="no JSON"):
            endpoints.execute_flow("f", bad)

    def test_refuses_an_input_that_contains_itself(self):
        loop: dict = {}
        loop["loop"] = loop

        with pytest.raises(ValidationError, match="no JSON"):
            endpoints.execute_flow("f", loop)

    def test_does_not_change_when_the_input_does(self):
        data = {"a": 1}
        call = endpoints.execute_flow("f", data)
        data["a"] = 2

        assert json.loads(call.content)["input_data"] == {"a": 1}


class TestWrites:
    @pytest.mark.parametrize(
        "call",
        [
            endpoints.create_flow({"flow_id": "f"}),
            endpoints.update_flow("f", {"name": "n"}),
            endpoints.delete_flow("f"),
            endpoints.create_agent({"agent_id": "a"}),
            endpoints.delete_agent("a"),
        ],
    )
    def test_are_not_repeated_without_a_name(self, call):
        assert not call.retry

    @pytest.mark.parametrize("build", [endpoints.create_flow, endpoints.create_agent])
    @pytest.mark.parametrize("bad", [{}, None, "x"])
    def test_are_not_sent_empty(self, build, bad):
        with pytest.raises(ValidationError):
            build(bad)


class TestLists:
    @pytest.mark.parametrize("limit", [0, 501, -1, "5", 2.0])
    def test_have_a_limit(self, limit):
        with pytest.raises(ValidationError, match="limit"):
            endpoints.list_executions(limit=limit)

    @pytest.mark.parametrize("offset", [-1, "5", 0.0, 1_000_001])
    def test_begin_somewhere(self, offset):
        with pytest.raises(ValidationError, match="offset"):
            endpoints.list_messages("e", 10, offset)

    def test_ask_for_what_was_wanted(self):
        call = endpoints.list_executions("f", "failed", 7, 14)

        assert call.params == {"flow_id": "f", "status": "failed", "limit": "7", "offset": "14"}
