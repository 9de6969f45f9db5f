"""What a script sees: ``settings``, ``memory``, ``llm``, ``set_result`` and ``save_artifact``."""

from __future__ import annotations

import builtins
import ctypes
import re
import sys
from binascii import b2a_base64
from collections.abc import Iterator, Mapping
from threading import Lock
from typing import Any, NamedTuple

from insula_jail import frames
from insula_jail.link import Link, Turn

# A script may replace what it finds in ``builtins``; this file keeps what was there before.
globals()["__builtins__"] = dict(vars(builtins))

_libc = ctypes.CDLL(None)
_flush_c = _libc.fflush

KB = 1024
MB = 1024 * KB
NAME_LIMIT_CHARS = 128
MODEL_LIMIT_CHARS = 200
MEMORY_KEY_LIMIT_CHARS = 256
# Other programs and databases read what a script leaves; they have these limits.
DEPTH_LIMIT = 60
NODES_LIMIT = 100_000
LEAST_INTEGER = -(2**63)
LARGEST_INTEGER = 2**64 - 1

BAD_IN_NAME = re.compile(r"[\x00-\x1f\x7f-\x9f/\\\ud800-\udfff]")
MANY_DIGITS = re.compile("[0-9]{19}")


class LLMError(RuntimeError):
    """No model answered, or none may be asked (any more); the text says why."""


LLMError.__module__ = "airlock"


class Limits(NamedTuple):
    """What a job may use, as its frame says."""

    result_kb: int = 1024
    memory_state_kb: int = 1024
    prompt_kb: int = 64
    llm_calls: int = 20
    artifacts: int = 16
    artifact_mb: int = 8

    @classmethod
    def of(cls, said: Mapping[str, int]) -> Limits:
        return cls(**{name: said[name] for name in cls._fields if name in said})


class Settings(Mapping[str, str]):
    """The execution's settings, which a script can read only. ``get`` of what is missing: None."""

    __slots__ = ("_values",)

    def __init__(self, values: dict[str, str]) -> None:
        self._values = values

    def __getitem__(self, key: str) -> str:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        # Values may be secrets.
        return f"<settings {sorted(self._values)}>"


class Memory:
    """What executions remember, by category and key. What a script sets, it reads back at once."""

    __slots__ = ("_before", "_guard", "_limits", "_nodes", "_set", "_size_bytes")

    def __init__(self, before: dict[str, Any], limits: Limits) -> None:
        self._before = before
        self._limits = limits
        self._guard = Lock()
        self._set: dict[str, str] = {}
        self._nodes: dict[str, int] = {}
        self._size_bytes = 2

    def get(self, category: str, key: str) -> Any:
        """The value, or ``None``. To change what was got is not to set it."""
        name = _dotted(category, key)
        text = self._set.get(name)
        if text is None and name in self._before:
            text = frames.dumps(self._before[name])
        return None if text is None else frames.loads(text)

    def set(self, category: str, key: str, value: Any) -> None:
        """Remember a JSON value. TypeError or ValueError if it is none, or too much."""
        name = _dotted(category, key)
        text, nodes = to_json(value, "value")
        with self._guard:
            self._keep(name, text, nodes)

    def dump(self) -> str:
        """What was set, as one JSON object."""
        return "{" + ",".join(f"{frames.dumps(k)}:{text}" for k, text in self._set.items()) + "}"

    def _keep(self, name: str, text: str, nodes: int) -> None:
        limit_kb = self._limits.memory_state_kb
        size_bytes = self._size_bytes + _entry_bytes(name, text)
        if name in self._set:
            size_bytes -= _entry_bytes(name, self._set[name])
        if size_bytes > limit_kb * KB:
            raise ValueError(f"What the script remembers is larger than {limit_kb} KiB.")
        total = sum(self._nodes.values()) - self._nodes.get(name, 0) + nodes
        if total + len(self._nodes) >= NODES_LIMIT - 1:
            raise ValueError(f"The memory has more than {NODES_LIMIT} keys, lists and objects.")
        self._set[name] = text
        self._nodes[name] = nodes
        self._size_bytes = size_bytes


class Llm:
    """A language model, which somebody outside asks: the script waits for the answer."""

    __slots__ = ("_answered", "_asked", "_limits", "_link", "_turn")

    def __init__(self, link: Link, limits: Limits) -> None:
        self._link = link
        self._limits = limits
        self._turn = Turn()
        self._asked = 0
        self._answered = 0

    def complete(self, prompt: str, model: str = "default") -> str:
        """The model's text. LLMError if there is none; TypeError if ``prompt`` is no text."""
        prompt, model = _text(prompt, "prompt"), _text(model, "model")
        if len(model) > MODEL_LIMIT_CHARS:
            raise ValueError(f"A model's name has at most {MODEL_LIMIT_CHARS} characters.")
        limit_kb = self._limits.prompt_kb
        if len(prompt) > limit_kb * KB or _size_bytes(prompt) > limit_kb * KB:
            raise LLMError(f"The prompt is larger than {limit_kb} KiB.")
        flush()
        with self._turn:
            return self._ask(prompt, model)

    __call__ = complete

    def _ask(self, prompt: str, model: str) -> str:
        _refuse_copy(self._link, LLMError)
        if self._asked >= self._limits.llm_calls:
            raise LLMError(f"A script may ask a model {self._limits.llm_calls} times.")
        # An exception of a signal handler may have ended an earlier wait, but not its question.
        if self._answered < self._asked:
            self._reply()
        self._asked += 1
        asked = {"t": "llm", "seq": self._asked, "prompt": prompt, "model": model}
        self._link.send([frames.encode(asked)])
        reply = self._reply()
        if reply["t"] == "llm_error":
            raise LLMError(str(reply.get("message") or "The model did not answer."))
        return _text(reply.get("text"), "answer")

    def _reply(self) -> dict[str, Any]:
        while True:
            frame = self._link.receive()
            if frame["t"] in ("llm_reply", "llm_error") and frame.get("seq") == self._asked:
                self._answered = self._asked
                return frame


class Result:
    """What a script hands back."""

    __slots__ = ("_limits", "text")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.text: str | None = None

    def set_result(self, data: Any) -> None:
        """Make this the result, in place of an earlier one. TypeError or ValueError if it is no
        JSON, or too large.
        """
        text, _ = to_json(data, "result")
        limit_kb = self._limits.result_kb
        if _size_bytes(text) > limit_kb * KB:
            raise ValueError(f"The result is larger than {limit_kb} KiB.")
        self.text = text


class Artifacts:
    """Files that a script leaves."""

    __slots__ = ("_guard", "_limits", "_link", "names")

    def __init__(self, link: Link, limits: Limits) -> None:
        self._link = link
        self._limits = limits
        self._guard = Lock()
        self.names: list[str] = []

    def save_artifact(self, name: str, data: bytes | bytearray | memoryview | str) -> None:
        """Leave a file; text is written as UTF-8. ValueError for a name that is a path, and for
        more or larger files than a script may leave.
        """
        name = _text(name, "name")
        if not is_file_name(name):
            raise ValueError("An artifact has a name of 1 to 128 characters, which is no path.")
        content = _bytes(data)
        if len(content) > self._limits.artifact_mb * MB:
            raise ValueError(f"An artifact is larger than {self._limits.artifact_mb} MiB.")
        _refuse_copy(self._link, ValueError)
        with self._guard:
            if len(self.names) >= self._limits.artifacts:
                raise ValueError(f"A script may leave {self._limits.artifacts} artifacts.")
            self.names.append(name)
        flush()
        self._link.send(_pieces(name, content))


def is_file_name(name: str) -> bool:
    """Whether a file of a script, in or out, may be called so: a name, not a path."""
    if not 1 <= len(name) <= NAME_LIMIT_CHARS or name in (".", ".."):
        return False
    return BAD_IN_NAME.search(name) is None


def flush() -> None:
    """Write out what the script and its libraries in C have printed, as far as streams work."""
    for name in ("stdout", "stderr", "__stdout__", "__stderr__"):
        # Not ``suppress``, which is Python code: it fails when the script has replaced builtins.
        try:  # noqa: SIM105 - as said above
            getattr(sys, name).flush()
        except Exception:  # noqa: BLE001, S110 - the script may have closed or replaced it
            pass
    _flush_c(None)


def forget_unflushed() -> None:
    """Drop what waits in C's streams: a copy of a process would write it out as its own."""
    for name in ("stdout", "stderr"):
        _libc.__fpurge(ctypes.c_void_p.in_dll(_libc, name))


def to_json(value: Any, what: str) -> tuple[str, int]:
    """The JSON of a value, and how many keys, lists and objects it has, at most.

    TypeError or ValueError if there is none, or none that other programs can read.
    """
    try:
        text = frames.dumps(value)
        nodes = text.count(":") + text.count("[") + text.count("{")
        if nodes > DEPTH_LIMIT or MANY_DIGITS.search(text):
            nodes = _look_through(frames.loads(text), what)
    except RecursionError:
        raise ValueError(f"The {what} is nested deeper than {DEPTH_LIMIT} levels.") from None
    return text, nodes


def _look_through(value: Any, what: str) -> int:
    """Count keys, lists and objects, level by level; refuse what other programs cannot read."""
    level, depth, nodes = [[value]], 0, 0
    while level:
        if depth > DEPTH_LIMIT:
            raise ValueError(f"The {what} is nested deeper than {DEPTH_LIMIT} levels.")
        deeper: list[Any] = []
        for node in level:
            items = node.values() if isinstance(node, dict) else node
            for item in items:
                if type(item) is int and not LEAST_INTEGER <= item <= LARGEST_INTEGER:
                    raise ValueError(f"An integer of the {what} has over 64 bits: use text.")
                if type(item) is dict or type(item) is list:
                    deeper.append(item)
            nodes += len(node) if isinstance(node, dict) else 0
        nodes += len(deeper)
        if nodes > NODES_LIMIT:
            raise ValueError(f"The {what} has more than {NODES_LIMIT} keys, lists and objects.")
        level, depth = deeper, depth + 1
    return nodes


def _entry_bytes(name: str, text: str) -> int:
    return _size_bytes(frames.dumps(name)) + _size_bytes(text) + 2


def _size_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _dotted(category: str, key: str) -> str:
    name = f"{_text(category, 'category')}.{_text(key, 'key')}"
    if len(name) > MEMORY_KEY_LIMIT_CHARS:
        raise ValueError(f"Category and key have at most {MEMORY_KEY_LIMIT_CHARS} characters.")
    return name


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"The {what} must be text, not {type(value).__name__}.")
    # A subclass may lie about what it is.
    return str.__str__(value)


def _bytes(data: Any) -> bytes:
    if isinstance(data, str):
        return str.__str__(data).encode()
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(memoryview(data))
    raise TypeError(f"An artifact is bytes or text, not {type(data).__name__}.")


def _pieces(name: str, content: bytes) -> Iterator[bytes]:
    for start in range(0, len(content) or 1, frames.CHUNK):
        piece = content[start : start + frames.CHUNK]
        yield frames.encode(
            {
                "t": "artifact",
                "name": name,
                "data": b2a_base64(piece, newline=False).decode(),
                "more": start + frames.CHUNK < len(content),
            }
        )


def _refuse_copy(link: Link, error: type[Exception]) -> None:
    if link.is_cut:
        raise error("This works in the script's own process only, not in a copy of it.")
