"""ETags, and what a writer takes for granted."""

import re
from typing import Final, Literal, TypeAlias

import msgspec

from app.kernel import errors
from app.kernel.errors import Invalid, NotFound

ANY: Final = "*"
NOTHING: Final = "none"
_ETAG: Final = re.compile(r'"([0-9]{1,18}-[0-9a-f]{8})"')

Decision: TypeAlias = Literal["change", "again"]


class PreconditionRequired(errors.PreconditionRequired):
    """A change says which revision it replaces, or that there is none."""

    title = "Precondition required"


class ConditionMalformed(Invalid):
    """``If-Match`` has one ETag or ``*``, ``If-None-Match`` has ``*``, and not both are there."""

    title = "Precondition malformed"


class PreconditionFailed(errors.PreconditionFailed):
    """Somebody else changed it first. ``etag`` is the current one, empty where there is none."""

    title = "Precondition failed"


class NoSuchRecord(NotFound):
    """No such record, or somebody else's, or a deleted one."""

    title = "No such record"


class Condition(msgspec.Struct, frozen=True):
    """What must be there before a change: nothing, anything, or one revision.

    ``etag`` is without quotes, or ``*``. ``base`` is how the change is remembered.
    """

    is_new: bool = False
    etag: str = ""

    @property
    def base(self) -> str:
        return NOTHING if self.is_new else self.etag


class State(msgspec.Struct, frozen=True):
    """What there is: ``etag`` without quotes, the precondition it came with, and its content."""

    etag: str
    base: str
    is_deleted: bool
    content: tuple[str, str, str] = ("", "", "")


def etag_of(rev: int, sha256: str) -> str:
    """Without the quotes."""
    return f"{rev}-{sha256[:8]}"


def quoted(etag: str) -> str:
    return f'"{etag}"'


def condition(if_match: str | None, if_none_match: str | None) -> Condition:
    """Read the headers of a change."""
    if if_match is not None and if_none_match is not None:
        raise ConditionMalformed("Send If-Match or If-None-Match, not both.")
    if if_none_match is not None:
        if if_none_match.strip() != ANY:
            raise ConditionMalformed("A change's If-None-Match is `*`: create what is not there.")
        return Condition(is_new=True)
    if if_match is None:
        raise PreconditionRequired(
            'Send `If-Match: "<etag>"` to change what you have read, or `If-None-Match: *` to '
            "create."
        )
    return Condition(is_new=False, etag=_parse(if_match))


def decide(
    wanted: Condition, state: State | None, content: tuple[str, str, str] | None
) -> Decision:
    """Whether a change is to be made, or was made already by the same request sent before.

    ``content`` is what it writes (SHA-256, table and key id), ``None`` for a deletion.
    ``PreconditionFailed`` when the record is not what the writer takes it for.
    """
    if state is not None and _is_repeated(wanted, state, content):
        return "again"
    is_there = state is not None and not state.is_deleted
    if content is None and not is_there:
        raise NoSuchRecord("There is no such record.")
    if wanted.is_new:
        if is_there:
            raise _stale(state, "There is a record of this id already.")
        return "change"
    if state is None or (state.is_deleted and wanted.etag != state.etag):
        raise _stale(state, "There is no such record to change.")
    if wanted.etag not in {ANY, state.etag}:
        raise _stale(state, "The record has changed since; read it again.")
    return "change"


def check(wanted: Condition, state: State | None) -> None:
    """Whether the record is what the caller takes it for; ``PreconditionFailed`` otherwise."""
    is_there = state is not None and not state.is_deleted
    if wanted.is_new:
        if is_there:
            raise _stale(state, "There is a record of this id already.")
    elif state is None or state.is_deleted:
        raise _stale(state, "There is no such record.")
    elif wanted.etag not in {ANY, state.etag}:
        raise _stale(state, "The record has changed since; read it again.")


def _is_repeated(wanted: Condition, state: State, content: tuple[str, str, str] | None) -> bool:
    if content is None:
        return state.is_deleted and state.base == wanted.base
    return not state.is_deleted and state.base == wanted.base and state.content == content


def _stale(state: State | None, text: str) -> PreconditionFailed:
    current = "" if state is None or state.is_deleted else quoted(state.etag)
    return PreconditionFailed(text, etag=current)


def _parse(text: str) -> str:
    stripped = text.strip()
    if stripped == ANY:
        return ANY
    found = _ETAG.fullmatch(stripped)
    if found is None:
        raise ConditionMalformed('If-Match is one strong ETag as answered, such as "3-1f2e3d4c".')
    return found[1]
