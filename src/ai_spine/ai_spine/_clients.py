"""The two clients."""

from __future__ import annotations

from ai_spine._agents import Agents, AsyncAgents
from ai_spine._executions import AsyncExecutions, Executions
from ai_spine._flows import AsyncFlows, Flows
from ai_spine._history import AsyncHistory, History
from ai_spine._system import AsyncSystem, System


class AISpine(Executions, History, Flows, Agents, System):
    """The client of AI Spine. Threads may share one.

    Reads, and starts of flows, are tried again when the server is busy, broken or out
    of reach: after a random time that doubles, or the seconds that the server says.
    Connections are kept and used again; redirects are not followed.

    Args:
        api_key: Sent as a bearer token; left out when ``None``. It is shown nowhere.
        base_url: Where the server is; the public one when left out.
        timeout: Seconds for one attempt, from connecting to the last byte.
        max_retries: Attempts after the first, 0 to 10.
        debug: Log each attempt to the logger ``ai_spine``.
        transport: What takes requests instead of the network, such as
            ``httpx.WSGITransport`` or ``httpx.MockTransport``.
        sleep: What pauses instead of ``time.sleep``.

    Raises:
        ValidationError: One of them is wrong.

    Example:
        >>> with AISpine(api_key=api_key, base_url=base_url) as client:
        ...     started = client.execute_flow("greeting", {"name": "Ada"})
        ...     ended = client.wait_for_execution(started["execution_id"])
        >>> ended["output_data"]
        {'end': {'name': 'Ada'}}
    """


class AsyncAISpine(AsyncExecutions, AsyncHistory, AsyncFlows, AsyncAgents, AsyncSystem):
    """The same client for asyncio: the same methods, awaited. One loop has one.

    Args:
        api_key: As in ``AISpine``.
        base_url: As in ``AISpine``.
        timeout: As in ``AISpine``.
        max_retries: As in ``AISpine``.
        debug: As in ``AISpine``.
        transport: What takes requests instead of the network, such as
            ``httpx.ASGITransport``.
        sleep: What pauses instead of ``asyncio.sleep``.

    Raises:
        ValidationError: One of them is wrong.

    Example:
        >>> import asyncio
        >>> async def greet():
        ...     async with AsyncAISpine(api_key=api_key, base_url=base_url) as client:
        ...         return await client.execute_and_wait("greeting", {"name": "Ada"})
        >>> asyncio.run(greet())["output_data"]
        {'end': {'name': 'Ada'}}
    """
