"""The answers as values."""

from dataclasses import FrozenInstanceError
from datetime import UTC, datetime

import pytest

import ai_spine
from ai_spine import Agent, Execution, ExecutionError, Flow, HealthStatus, ValidationError

EXECUTION = {"execution_id": "e1", "flow_id": "f1", "status": "failed"}
MODELS = [
    getattr(ai_spine, name)
    for name in (
        "Agent",
        "Execution",
        "ExecutionEvent",
        "Flow",
        "HealthStatus",
        "Metrics",
        "NodeResult",
        "User",
    )
]


class TestFromDict:
    def test_leaves_out_what_it_does_not_know(self):
        flow = Flow.from_dict({"flow_id": "f", "name": "F", "invented_tomorrow": 1})

        assert flow == Flow("f", "F")

    def test_takes_null_for_nothing_said(self):
        assert Flow.from_dict({"flow_id": "f", "name": "F", "metadata": None}).metadata == {}

    @pytest.mark.parametrize("data", [{}, {"flow_id": "f"}, {"flow_id": "f", "name": None}])
    def test_refuses_what_lacks_a_name(self, data):
        with pytest.raises(ValidationError, match="no Flow"):
            Flow.from_dict(data)

    @pytest.mark.parametrize("kind", MODELS)
    @pytest.mark.parametrize("data", [None, [], "x", 1])
    def test_refuses_what_is_no_object(self, kind, data):
        with pytest.raises(ValidationError, match=f"no {kind.__name__}"):
            kind.from_dict(data)

    @pytest.mark.parametrize(
        ("said", "meant"),
        [
            ("2026-01-02T03:04:05Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
            ("2026-01-02T03:04:05.5Z", datetime(2026, 1, 2, 3, 4, 5, 500_000, tzinfo=UTC)),
            ("2026-01-02T03:04:05.123456789Z", datetime(2026, 1, 2, 3, 4, 5, 123456, tzinfo=UTC)),
            ("2026-01-02T03:04:05+02:00", datetime(2026, 1, 2, 1, 4, 5, tzinfo=UTC)),
            ("2026-01-02 03:04:05-0130", datetime(2026, 1, 2, 4, 34, 5, tzinfo=UTC)),
            ("2026-01-02T03:04:05", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
            (0, datetime(1970, 1, 1, tzinfo=UTC)),
            (0.5, datetime(1970, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC)),
        ],
    )
    def test_reads_times(self, said, meant):
        flow = Flow.from_dict({"flow_id": "f", "name": "F", "created_at": said})

        assert flow.created_at == meant

    @pytest.mark.parametrize("said", ["", "yesterday", "2026-02-30T00:00:00Z", 1e300, "2026-01-02"])
    def test_refuses_what_is_no_time(self, said):
        with pytest.raises(ValidationError, match="created_at is no ISO 8601 time"):
            Flow.from_dict({"flow_id": "f", "name": "F", "created_at": said})

    def test_reads_the_results_of_nodes(self):
        nodes = {"n": {"node_id": "n", "status": "completed", "attempts": 2}}

        execution = Execution.from_dict({**EXECUTION, "node_results": nodes})

        assert execution.node_results["n"].attempts == 2

    @pytest.mark.parametrize("kind", MODELS)
    def test_gives_what_cannot_be_changed(self, kind):
        names = ("flow_id", "name", "execution_id", "status", "node_id", "event", "agent_id", "id")
        value = kind.from_dict(dict.fromkeys(names, "x"))

        with pytest.raises(FrozenInstanceError):
            value.status = "other"


class TestToDict:
    def test_writes_what_the_server_would_read(self):
        said = {
            **EXECUTION,
            "created_at": "2026-01-02T03:04:05.500000Z",
            "node_results": {"n": {"node_id": "n", "status": "failed"}},
        }

        written = Execution.from_dict(said).to_dict()

        assert written["created_at"] == said["created_at"]
        assert written["node_results"]["n"]["status"] == "failed"
        assert Execution.from_dict(written) == Execution.from_dict(said)


class TestExecution:
    @pytest.mark.parametrize(
        ("status", "is_terminal", "is_successful", "is_failed"),
        [
            ("pending", False, False, False),
            ("running", False, False, False),
            ("completed", True, True, False),
            ("failed", True, False, True),
            ("cancelled", True, False, False),
        ],
    )
    def test_knows_its_states(self, status, is_terminal, is_successful, is_failed):
        execution = Execution("e", "f", status)

        assert execution.is_terminal is is_terminal
        assert execution.is_successful is is_successful
        assert execution.is_failed is is_failed

    @pytest.mark.parametrize("status", ["failed", "cancelled"])
    def test_insists_on_success(self, status):
        execution = Execution("e1", "f", status, error_message="no money")

        with pytest.raises(ExecutionError, match=f"e1 is {status}: no money") as raised:
            execution.raise_for_status()
        assert raised.value.execution_id == "e1"
        assert raised.value.details["status"] == status

    @pytest.mark.parametrize("status", ["pending", "running", "completed"])
    def test_says_nothing_when_nothing_is_wrong(self, status):
        Execution("e1", "f", status).raise_for_status()


class TestHealthStatus:
    @pytest.mark.parametrize("status", ["healthy", "OK", "up"])
    def test_is_healthy(self, status):
        assert HealthStatus(status).is_healthy

    def test_is_not(self):
        assert not HealthStatus("unhealthy").is_healthy
        assert not HealthStatus.from_dict({}).is_healthy


class TestAgent:
    def test_reads_what_the_server_sends(self):
        agent = Agent.from_dict({"agent_id": "a", "name": "A", "capabilities": ["conversation"]})

        assert agent.capabilities == ["conversation"]
        assert not agent.has_token
