"""What can go wrong, and what to do about it.

AI_SPINE_BASE_URL=http://localhost:8000/spine AI_SPINE_API_KEY=isk_... \
    python error_handling.py
"""

import os
from typing import Any, Callable

from ai_spine import (
    AISpine,
    AISpineError,
    AuthenticationError,
    ExecutionError,
    InsufficientCreditsError,
    NetworkError,
    NotFoundError,
    RateLimitError,
    TimeoutError,
    ValidationError,
)

# A prompt that needs a name, which the input below does not have.
NAMELESS = {
    "flow_id": "example-nameless",
    "name": "Nameless",
    "nodes": [
        {"id": "greeting", "kind": "llm", "config": {"prompt": "Greet {name}."}},
    ],
}
CIRCLE = {
    "flow_id": "example-circle",
    "name": "Circle",
    "nodes": [
        {"id": "hen", "depends_on": ["egg"]},
        {"id": "egg", "depends_on": ["hen"]},
    ],
}


def open_client() -> AISpine:
    return AISpine(
        api_key=os.environ.get("AI_SPINE_API_KEY"),
        base_url=os.environ.get("AI_SPINE_BASE_URL"),
    )


def explain(act: Callable[[], Any]) -> str:
    """Do something and say how it ended."""
    try:
        act()
    except ValidationError as error:
        return f"Correct it: {error} {error.details}"
    except AuthenticationError:
        return "Look at your key."
    except NotFoundError as error:
        return f"Not there: {error}"
    except RateLimitError as error:
        return f"Come back in {error.retry_after} seconds."
    except InsufficientCreditsError:
        return "Top up."
    except ExecutionError as error:
        return f"Execution {error.execution_id} failed: {error.details['error_code']}"
    except TimeoutError as error:
        return f"Ask for {error.execution_id} again later."
    except NetworkError as error:
        return f"Out of reach: {error}"
    except AISpineError as error:
        return f"Quote {error.request_id} to the operator: {error}"
    return "Done."


def main() -> None:
    with open_client() as client:
        print("A flow that is not there:")
        print(" ", explain(lambda: client.get_flow("example-never-written")))
        print("An id that is none:")
        print(" ", explain(lambda: client.get_flow("not/an/id")))
        print("A flow that goes in circles:")
        print(" ", explain(lambda: client.create_flow(CIRCLE)))

        client.delete_flow("example-nameless")
        client.create_flow(NAMELESS)
        print("An execution that fails:")
        print(
            " ",
            explain(
                lambda: client.execute_and_wait("example-nameless", {}, interval=0.2)
            ),
        )

    print("A server that is not there:")
    with AISpine(base_url="http://127.0.0.1:1", max_retries=0) as nowhere:
        print(" ", explain(nowhere.health_check))


if __name__ == "__main__":
    main()
