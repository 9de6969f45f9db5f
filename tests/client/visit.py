"""What is done with every interpreter, in an environment that has the wheel and httpx only.

python visit.py BASE_URL    the key is in AI_SPINE_API_KEY; the flow `greeting` is there
"""

import asyncio
import os
import pickle
import sys
import warnings

import ai_spine

QUICK = {"timeout": 30, "interval": 0.05}


def visit(client):
    assert ai_spine.HealthStatus.from_dict(client.health_check()).is_healthy
    assert "greeting" in [flow["flow_id"] for flow in client.list_flows()]
    started = client.execute_flow("greeting", {"name": "Ada"}, {"from": sys.version})
    ended = client.wait_for_execution(started["execution_id"], **QUICK)
    execution = ai_spine.Execution.from_dict(ended)
    assert execution.output_data == {"end": {"name": "Ada"}}
    assert execution.created_at.utcoffset().total_seconds() == 0
    assert ai_spine.Execution.from_dict(execution.to_dict()) == execution
    events = list(client.stream_execution(started["execution_id"]))
    assert events[-1]["data"]["status"] == "completed"
    assert next(client.iter_executions("greeting", page_size=1))["flow_id"] == "greeting"
    try:
        client.get_flow("nothing-of-this-name")
    except ai_spine.NotFoundError as error:
        copied = pickle.loads(pickle.dumps(error))
    assert copied.status_code == 404


async def visit_awaited(key, base_url):
    async with ai_spine.AsyncAISpine(key, base_url) as client:
        runs = [client.execute_and_wait("greeting", {"n": n}, **QUICK) for n in range(3)]
        ended = await asyncio.gather(*runs)
        assert [one["output_data"]["end"]["n"] for one in ended] == [0, 1, 2]
        events = [event async for event in client.stream_execution(ended[0]["execution_id"])]
        assert events[-1]["event"] == "result"
        try:
            await client.wait_for_execution("nothing", **QUICK)
        except ai_spine.NotFoundError:
            pass
        else:
            raise AssertionError("It was found.")


def visit_nobody():
    with ai_spine.AISpine(base_url="http://127.0.0.1:1", max_retries=0) as client:
        try:
            client.health_check()
        except ai_spine.NetworkError:
            pass
        else:
            raise AssertionError("Somebody is there.")


def main():
    warnings.simplefilter("error")
    key, base_url = os.environ["AI_SPINE_API_KEY"], sys.argv[1]
    with ai_spine.AISpine(key, base_url) as client:
        visit(client)
    asyncio.run(visit_awaited(key, base_url))
    visit_nobody()
    import httpx

    print("Python {}.{}, httpx {}".format(*sys.version_info[:2], httpx.__version__))


if __name__ == "__main__":
    main()
