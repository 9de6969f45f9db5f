"""Waiting for a condition, with a deadline, in place of sleeping."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

LOOK_EVERY_S = 0.01


async def until(condition: Callable[[], Any], *, within_s: float = 10.0) -> Any:
    """Return the first true value of ``condition``, which may be a coroutine function."""
    async with asyncio.timeout(within_s):
        while True:
            value = condition()
            if inspect.isawaitable(value):
                value = await value
            if value:
                return value
            await asyncio.sleep(LOOK_EVERY_S)
