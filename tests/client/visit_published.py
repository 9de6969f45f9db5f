"""The journey of a program that was written for the published package, with that package.

python visit_published.py BASE_URL    the key is in AI_SPINE_API_KEY; the flows `greeting` and
                                      `failing` are there
"""

import os
import sys

from ai_spine import (
    AISpine,
    APIError,
    AuthenticationError,
    ExecutionError,
    NetworkError,
    ValidationError,
    __version__,
)
from ai_spine.models import Agent, Execution, Flow, HealthStatus, Metrics


def refused(kind, act):
    """The error that an act ends with."""
    try:
        act()
    except kind as error:
        return error
    raise AssertionError(f"No {kind.__name__}.")


def execute(client):
    started = client.execute_flow("greeting", {"name": "Ada"}, {"source": "published"})
    assert started["status"] == "pending"
    assert started["created_at"]
    ended = client.wait_for_execution(started["execution_id"], timeout=30, interval=0.05)
    execution = Execution.from_dict(ended)
    assert execution.is_successful
    assert execution.output_data == {"end": {"name": "Ada"}}
    assert execution.metadata == {"source": "published"}
    assert client.execute_and_wait("greeting", {}, interval=0.05)["status"] == "completed"
    failed = refused(ExecutionError, lambda: client.execute_and_wait("failing", {}, interval=0.05))
    assert failed.execution_id
    refused(APIError, lambda: client.cancel_execution(started["execution_id"]))


def manage(client):
    agent = {"agent_id": "published", "name": "P", "endpoint": "http://127.0.0.1:9"}
    flow = Flow.from_dict(client.get_flow("greeting"))
    assert flow.name == "Greeting"
    assert flow.created_at is not None
    assert "greeting" in [one["flow_id"] for one in client.list_flows()]
    assert Agent.from_dict(client.create_agent(agent)).type == "processor"
    assert "published" in [one["agent_id"] for one in client.list_agents()]
    assert client.delete_agent("published") is True
    assert client.delete_agent("published") is False
    refused(ValidationError, lambda: client.create_agent({"name": "nameless"}))
    assert refused(APIError, lambda: client.get_flow("nothing")).status_code == 404


def look(client):
    assert HealthStatus.from_dict(client.health_check()).is_healthy
    assert client.get_status()["status"] == "operational"
    metrics = Metrics.from_dict(client.get_metrics())
    assert metrics.executions_total >= 3
    assert metrics.flows_total >= 1
    assert "@" in client.get_current_user()["email"]
    assert client.check_credits() > 0


def main():
    key, base_url = os.environ["AI_SPINE_API_KEY"], sys.argv[1]
    with AISpine(api_key=key, base_url=base_url) as client:
        execute(client)
        manage(client)
        look(client)
    stranger = AISpine(api_key="sk_nobody", base_url=base_url)
    refused(AuthenticationError, stranger.list_flows)
    nowhere = AISpine(api_key="sk_nobody", base_url="http://127.0.0.1:1", max_retries=0)
    refused(NetworkError, nowhere.health_check)
    print(f"ai-spine-sdk {__version__}")


if __name__ == "__main__":
    main()
