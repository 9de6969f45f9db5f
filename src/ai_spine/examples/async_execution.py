"""Follow executions as they go, several at once, in one loop.

AI_SPINE_BASE_URL=http://localhost:8000/spine AI_SPINE_API_KEY=isk_... \
    python async_execution.py
"""

import asyncio
import os

from ai_spine import AsyncAISpine, ConflictError

# `draft` and `title` need nothing of each other: they run at the same time.
ARTICLE = {
    "flow_id": "example-article",
    "name": "Article",
    "nodes": [
        {"id": "topic", "type": "input"},
        {
            "id": "draft",
            "kind": "llm",
            "depends_on": ["topic"],
            "config": {"prompt": "Write about {topic}."},
        },
        {
            "id": "title",
            "kind": "llm",
            "depends_on": ["topic"],
            "config": {"prompt": "Find a title for {topic}."},
        },
        {"id": "article", "type": "output", "depends_on": ["draft", "title"]},
    ],
}


async def follow(client: AsyncAISpine, topic: str) -> str:
    """Start one, say what happens, and return how it ended."""
    started = await client.execute_flow("example-article", {"topic": topic})
    status = "pending"
    async for event in client.stream_execution(started["execution_id"], timeout=60):
        data = event["data"]
        if event["event"] == "node":
            print(f"{topic}: {data['node_id']} {data['status']}")
        elif event["event"] == "result":
            status = data["status"]
    return status


async def main() -> None:
    async with AsyncAISpine(
        api_key=os.environ.get("AI_SPINE_API_KEY"),
        base_url=os.environ.get("AI_SPINE_BASE_URL"),
    ) as client:
        try:
            await client.create_flow(ARTICLE)
        except ConflictError:
            print("The flow is there already.")
        topics = ["rivers", "bridges", "tides"]
        ends = await asyncio.gather(*[follow(client, topic) for topic in topics])
        for topic, end in zip(topics, ends):
            print(f"{topic}: {end}")


if __name__ == "__main__":
    asyncio.run(main())
