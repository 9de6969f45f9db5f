"""What is sent, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Generic, Mapping, TypeVar, Union

T = TypeVar("T")
JSON = Dict[str, Any]


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request to one endpoint.

    ``retry``: sending it twice does what sending it once does. ``if_missing`` is the
    answer to 404 where that is no error.
    """

    method: str
    path: str
    returns: Callable[[Any], T]
    content: bytes | None = field(default=None, repr=False)
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    retry: bool = False
    if_missing: T | None = None


@dataclass(frozen=True)
class Answer:
    """An answer that was read to its end. The names of ``headers`` are lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


@dataclass(frozen=True)
class Fault:
    """No answer. ``is_sent``: the server may have done what it was asked."""

    text: str
    is_sent: bool
    is_late: bool


Outcome = Union[Answer, Fault]
