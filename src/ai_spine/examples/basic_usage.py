"""Write a flow, execute it, wait for its end, and read what came out.

AI_SPINE_BASE_URL=http://localhost:8000/spine AI_SPINE_API_KEY=isk_... \
    python basic_usage.py
"""

import os

from ai_spine import AISpine, ConflictError, Execution

HELLO = {
    "flow_id": "example-hello",
    "name": "Hello",
    "nodes": [
        {
            "id": "greeting",
            "kind": "llm",
            "config": {"prompt": "Say hello to {name}."},
        },
        {"id": "answer", "type": "output", "depends_on": ["greeting"]},
    ],
}


def main() -> None:
    with AISpine(
        api_key=os.environ.get("AI_SPINE_API_KEY"),
        base_url=os.environ.get("AI_SPINE_BASE_URL"),
    ) as client:
        print("The server is", client.health_check()["status"])
        try:
            client.create_flow(HELLO)
        except ConflictError:
            print("The flow is there already.")

        started = client.execute_flow("example-hello", {"name": "Ada"})
        print("Started", started["execution_id"])
        ended = client.wait_for_execution(started["execution_id"], interval=0.2)

        execution = Execution.from_dict(ended)
        execution.raise_for_status()
        print("Answer:", ended["output_data"]["answer"]["text"])
        print("It took", execution.execution_time, "seconds.")


if __name__ == "__main__":
    main()
