"""The awaited methods are documented where their twins are, once."""

from __future__ import annotations

import re
from typing import Callable, TypeVar

C = TypeVar("C")

_LOOP = re.compile(r"(>>> )(for \w+ in )")
_CALL = re.compile(r"(>>> |= )(client\.(?!stream_|iter_))")


def twin_of(twin: type) -> Callable[[type[C]], type[C]]:
    """Give each public method the docstring of its twin, with its calls awaited."""

    def document(awaited: type[C]) -> type[C]:
        for name, method in vars(awaited).items():
            if not name.startswith("_"):
                told = getattr(twin, name).__doc__
                method.__doc__ = _CALL.sub(
                    r"\1await \2", _LOOP.sub(r"\1async \2", told)
                )
        return awaited

    return document
