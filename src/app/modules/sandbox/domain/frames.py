"""What a worker says: one frame of JSON after the other, from code that nobody trusts.

A script can reach its worker's socket, so every frame may be forged. A frame is accepted where it
is what a worker may say at this point, within the project's limits; else the worker is stopped.
"""

import re
from typing import Annotated, Any, Final, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from app.kernel.errors import BadUpstream
from app.modules.sandbox.domain.limits import Limits

KB: Final = 1024
MB: Final = 1024 * KB
FRAME_LIMIT_BYTES: Final = 4 * MB
PART_LIMIT_BYTES: Final = 512 * KB
# A part that is not the last one carries something: a file does not come byte by byte.
PART_LEAST_BYTES: Final = 16 * KB
# A worker keeps 64 KiB of an error, and a line that says how much it left out.
ERROR_LIMIT_CHARS: Final = 65 * KB
DEPTH_LIMIT: Final = 64
KEYS_LIMIT: Final = 100_000
MODEL_LIMIT_CHARS: Final = 200
NAME_LIMIT_CHARS: Final = 128
MEMORY_KEY_LIMIT_CHARS: Final = 256
UNKNOWN_LIMIT: Final = 100
LEAST_INTEGER: Final = -(2**63)
LARGEST_INTEGER: Final = 2**64 - 1

KINDS: Final = frozenset({"ready", "llm", "artifact", "done"})
BAD_IN_NAME: Final = re.compile(r"[\x00-\x1f\x7f-\x9f/\\]")
# A surrogate without its other half: written as UTF-8, or as an escape.
RAW_SURROGATE: Final = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")
UNSTORABLE: Final = re.compile(
    rb"\\u(?:0000"
    rb"|[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u)[dD][c-fC-F][0-9a-fA-F]{2})"
)
REPLACEMENT: Final = "\ufffd".encode()
ALL_DIGITS_ALIKE: Final = bytes.maketrans(b"123456789", b"0" * 9)
# An integer of fewer digits has no more than 64 bits.
MANY_DIGITS: Final = b"0" * 19

T = TypeVar("T")


class ProtocolBroken(BadUpstream):
    """A worker said what it may not say; the text tells the script's author what, and quotes
    nothing of it.
    """

    title = "Worker broke its protocol"


class Ready(msgspec.Struct, frozen=True):
    """It waits for its job. ``walls``: which means of isolation it has seen to hold."""

    walls: Annotated[dict[str, bool], Meta(max_length=64)] = {}


class LlmAsked(msgspec.Struct, frozen=True):
    """The script waits for a language model. ``seq`` counts from 1."""

    seq: int
    prompt: str
    model: Annotated[str, Meta(max_length=MODEL_LIMIT_CHARS)] = "default"


class ArtifactPart(msgspec.Struct, frozen=True):
    """A piece of a file that the script leaves; the next frame has the next piece, if ``more``."""

    name: str
    data: bytes
    more: bool = False


class Done(msgspec.Struct, frozen=True):
    """The script has ended. ``memory`` is what it has set, by ``category.key``."""

    ok: bool
    exit_code: int | None
    error: str | None
    has_result: bool
    result: Any
    memory: dict[str, Any]


Frame: TypeAlias = Ready | LlmAsked | ArtifactPart | Done


class _Head(msgspec.Struct, frozen=True):
    t: str


class _DoneFrame(msgspec.Struct, frozen=True):
    ok: bool
    exit_code: Annotated[int, Meta(ge=-(2**31), le=2**32)] | None = None
    error: Annotated[str, Meta(max_length=ERROR_LIMIT_CHARS)] | None = None
    has_result: bool = False
    result: msgspec.Raw = msgspec.Raw(b"null")
    memory: msgspec.Raw = msgspec.Raw(b"{}")


HEAD: Final = msgspec.json.Decoder(_Head)
READY: Final = msgspec.json.Decoder(Ready)
ASKED: Final = msgspec.json.Decoder(LlmAsked)
PART: Final = msgspec.json.Decoder(ArtifactPart)
DONE: Final = msgspec.json.Decoder(_DoneFrame)
VALUE: Final = msgspec.json.Decoder(Any)
MEMORY: Final = msgspec.json.Decoder(dict[str, Any])


class Dialogue:
    """One execution's frames, in their order: ``ready``, then questions and files, then ``done``.

    A question may be open while files come and when the script ends; a second one may not be asked.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._is_begun = False
        self._is_done = False
        self._asked = 0
        self._is_asking = False
        self._artifacts = 0
        self._open_name: str | None = None
        self._open_bytes = 0
        self._unknown = 0

    @property
    def open_seq(self) -> int | None:
        """The question that waits for its answer."""
        return self._asked if self._is_asking else None

    def answered(self) -> None:
        """The open question has its answer: the next one may come."""
        self._is_asking = False

    def accept(self, frame: bytes) -> Frame | None:
        """Read the next frame; ``None`` for one of a kind that is not known. Or ProtocolBroken."""
        if self._is_done:
            raise ProtocolBroken("The worker went on after it had said that it was done.")
        if len(frame) > FRAME_LIMIT_BYTES:
            raise ProtocolBroken(f"A frame is larger than {FRAME_LIMIT_BYTES} bytes.")
        if b"\\u0000" in frame:
            frame = _storable(frame)
        kind = _decode(HEAD, frame).t
        if kind not in KINDS:
            self._ignore()
            return None
        if self._open_name is not None and kind != "artifact":
            raise ProtocolBroken("A file was not finished before the next thing was said.")
        found = self._read(kind, frame)
        self._is_begun = True
        return found

    def _read(self, kind: str, frame: bytes) -> Frame:
        match kind:
            case "ready":
                return self._ready(frame)
            case "llm":
                return self._ask(frame)
            case "artifact":
                return self._part(frame)
            case _:
                return self._end(frame)

    def _ignore(self) -> None:
        self._unknown += 1
        if self._unknown > UNKNOWN_LIMIT:
            raise ProtocolBroken(f"The worker sent more than {UNKNOWN_LIMIT} unknown frames.")

    def _ready(self, frame: bytes) -> Ready:
        if self._is_begun:
            raise ProtocolBroken("The worker said a second time that it was ready.")
        return _decode(READY, frame)

    def _ask(self, frame: bytes) -> LlmAsked:
        asked = _decode(ASKED, frame)
        if self._is_asking:
            raise ProtocolBroken("The script asked a model while a question was still open.")
        if asked.seq != self._asked + 1:
            raise ProtocolBroken("The script's questions to a model are not counted 1, 2, 3.")
        if asked.seq > self._limits.llm_calls:
            raise ProtocolBroken(f"A model was asked more than {self._limits.llm_calls} times.")
        if _is_longer(asked.prompt, self._limits.prompt_kb * KB):
            raise ProtocolBroken(f"A prompt is larger than {self._limits.prompt_kb} KiB.")
        self._asked += 1
        self._is_asking = True
        return asked

    def _part(self, frame: bytes) -> ArtifactPart:
        part = _decode(PART, frame)
        size = len(part.data)
        if size > PART_LIMIT_BYTES or (part.more and size < PART_LEAST_BYTES):
            raise ProtocolBroken("A piece of a file is too large, or too small to be one.")
        if self._open_name is None:
            self._begin_artifact(part.name)
        elif part.name != self._open_name:
            raise ProtocolBroken("A file was not finished before the next one began.")
        self._open_bytes += size
        if self._open_bytes > self._limits.artifact_mb * MB:
            raise ProtocolBroken(f"A file is larger than {self._limits.artifact_mb} MiB.")
        if not part.more:
            self._open_name = None
        return part

    def _begin_artifact(self, name: str) -> None:
        if not is_file_name(name):
            raise ProtocolBroken("A file's name is empty, too long, or a path.")
        self._artifacts += 1
        if self._artifacts > self._limits.artifacts:
            raise ProtocolBroken(f"The script left more than {self._limits.artifacts} files.")
        self._open_name = name
        self._open_bytes = 0

    def _end(self, frame: bytes) -> Done:
        said = _decode(DONE, frame)
        if len(said.result) > self._limits.result_kb * KB:
            raise ProtocolBroken(f"The result is larger than {self._limits.result_kb} KiB.")
        if len(said.memory) > self._limits.memory_state_kb * KB:
            raise ProtocolBroken(f"The memory is larger than {self._limits.memory_state_kb} KiB.")
        memory = _value(MEMORY, said.memory, "memory")
        if any(len(key) > MEMORY_KEY_LIMIT_CHARS for key in memory):
            limit = MEMORY_KEY_LIMIT_CHARS
            raise ProtocolBroken(f"A key of the memory is longer than {limit} characters.")
        result = _value(VALUE, said.result, "result") if said.has_result else None
        self._is_done = True
        return Done(said.ok, said.exit_code, said.error, said.has_result, result, memory)


def is_file_name(name: str) -> bool:
    """Whether a file of a script, in or out, may be called so: a name, not a path."""
    if not 1 <= len(name) <= NAME_LIMIT_CHARS or name in {".", ".."}:
        return False
    return BAD_IN_NAME.search(name) is None


def _decode(decoder: msgspec.json.Decoder[T], raw: bytes | msgspec.Raw) -> T:
    """Decode JSON; what only its characters stop is decoded with others in their place."""
    try:
        return decoder.decode(raw)
    except (msgspec.ValidationError, RecursionError):
        raise ProtocolBroken("The worker said what has not the form of a frame.") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    try:
        return decoder.decode(_storable(bytes(raw)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ProtocolBroken("The worker said what is no JSON.") from None


def _value(decoder: msgspec.json.Decoder[T], raw: msgspec.Raw, what: str) -> T:
    """Decode a value of the script's own, if a database and other programs can keep it."""
    value = _decode(decoder, raw)
    text = bytes(raw)
    is_simple = (
        text.count(b"[") + text.count(b"{") <= DEPTH_LIMIT
        and text.count(b":") < KEYS_LIMIT
        and MANY_DIGITS not in text.translate(ALL_DIGITS_ALIKE)
    )
    if not is_simple:
        _look_through(value, what)
    return value


def _look_through(value: Any, what: str) -> None:
    """Refuse what other programs cannot read, level by level."""
    level, depth, keys = [[value]], 0, 0
    while level:
        if depth > DEPTH_LIMIT:
            raise ProtocolBroken(f"The {what} is nested deeper than {DEPTH_LIMIT} levels.")
        deeper: list[Any] = []
        for node in level:
            items = node.values() if isinstance(node, dict) else node
            if any(type(item) is int and not _is_64_bit(item) for item in items):
                raise ProtocolBroken(f"An integer of the {what} has over 64 bits: say it as text.")
            deeper += [item for item in items if type(item) is dict or type(item) is list]
            keys += len(node) if isinstance(node, dict) else 0
        keys += len(deeper)
        if keys > KEYS_LIMIT:
            raise ProtocolBroken(f"The {what} has more than {KEYS_LIMIT} keys, lists and objects.")
        level, depth = deeper, depth + 1


def _is_64_bit(number: int) -> bool:
    return LEAST_INTEGER <= number <= LARGEST_INTEGER


def _storable(frame: bytes) -> bytes:
    """Put U+FFFD in the place of what no UTF-8 text of a database can have.

    That is NUL, halves of surrogate pairs, and bytes that are no UTF-8.
    """
    text = RAW_SURROGATE.sub(REPLACEMENT, frame).decode("utf-8", "replace").encode()
    # No byte 255 is in UTF-8: it stands for an escaped backslash while others are looked for.
    return UNSTORABLE.sub(REPLACEMENT, text.replace(rb"\\", b"\xff")).replace(b"\xff", rb"\\")


def _is_longer(text: str, limit_bytes: int) -> bool:
    return len(text) > limit_bytes or len(text.encode()) > limit_bytes
