"""How deep a JSON value is nested: what could be read may still be too deep to be written."""

from typing import Any, Final

DEPTH_LIMIT: Final = 100


def is_too_deep(value: Any, limit: int = DEPTH_LIMIT) -> bool:
    """Whether more than ``limit`` lists and objects lie inside each other."""
    level: list[Any] = [value] if isinstance(value, (dict, list)) else []
    for _ in range(limit):
        if not level:
            return False
        # In one expression, because an answer may have a million parts.
        level = [
            part
            for one in level
            for part in (one.values() if type(one) is dict else one)
            if type(part) is dict or type(part) is list
        ]
    return bool(level)
