"""Execute a flow for many inputs, a few at a time, each exactly once.

The name of a start comes of its input: run this again, also after a crash, and what
was started before is found, not started anew.

AI_SPINE_BASE_URL=http://localhost:8000/spine AI_SPINE_API_KEY=isk_... \
    python batch_processing.py
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor

from ai_spine import AISpine, ConflictError, ExecutionError

BATCH = "example-batch-1"
AT_ONCE = 4
REVIEWS = ["Great product!", "Not what I hoped for.", "It works.", "Never again."]
SENTIMENT = {
    "flow_id": "example-sentiment",
    "name": "Sentiment",
    "nodes": [
        {
            "id": "opinion",
            "kind": "llm",
            "config": {"prompt": "Is this happy or sad? {text}"},
        },
        {"id": "answer", "type": "output", "depends_on": ["opinion"]},
    ],
}


def process(client: AISpine, text: str) -> str:
    item = {"text": text}
    digest = hashlib.sha256(json.dumps(item, sort_keys=True).encode()).hexdigest()
    try:
        ended = client.execute_and_wait(
            "example-sentiment",
            item,
            metadata={"batch": BATCH},
            timeout=120,
            interval=0.2,
            idempotency_key=f"{BATCH}-{digest[:32]}",
        )
    except ExecutionError as error:
        return f"failed: {error}"
    return ended["output_data"]["answer"]["text"]


def main() -> None:
    with AISpine(
        api_key=os.environ.get("AI_SPINE_API_KEY"),
        base_url=os.environ.get("AI_SPINE_BASE_URL"),
    ) as client:
        try:
            client.create_flow(SENTIMENT)
        except ConflictError:
            print("The flow is there already.")
        with ThreadPoolExecutor(AT_ONCE) as threads:
            answers = threads.map(lambda text: process(client, text), REVIEWS)
        for text, answer in zip(REVIEWS, answers):
            print(f"{text} -> {answer}")

        executions = client.iter_executions("example-sentiment", page_size=2)
        count = sum(e["metadata"].get("batch") == BATCH for e in executions)
        print(f"{count} executions in this batch.")


if __name__ == "__main__":
    main()
