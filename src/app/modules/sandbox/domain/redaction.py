"""Secrets in what a script says: they are taken out before anything is kept or shown.

Exact values are found wherever they stand, also over the seam of two pieces of a stream, and so is
what looks like a credential. Where two of them overlap, all that they cover gets one mark. This is
care for accidents: a script that wants to give a secret away can write it backwards.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, AnyStr, Final, Generic, NamedTuple

SHOWN_CHARS: Final = 4
MARK: Final = "[REDACTED]"
TOKEN_LEAST_CHARS: Final = 16
USER_LIMIT_CHARS: Final = 64
PASSWORD_LIMIT_CHARS: Final = 256
# As long as any beginning of a pattern, and one character before it.
CONTEXT_CHARS: Final = USER_LIMIT_CHARS + 8
SEAM: Final = "\n"

KEY_BEGINNING: Final = (
    r"(?:sk-(?<!\wsk-)|isk_(?<!\wisk_)|AKIA(?<!\wAKIA)"
    r"|gh[pousr]_(?<!\wgh[pousr]_)|xox[a-z]-(?<!\wxox[a-z]-))"
)
BEARER_BEGINNING: Final = r"[Bb][Ee][Aa][Rr][Ee][Rr] "
URL_BEGINNING: Final = rf"://[^\s/:@]{{0,{USER_LIMIT_CHARS}}}:"
KEY_CHAR: Final = r"[A-Za-z0-9_-]"
BEARER_CHAR: Final = r"[A-Za-z0-9._~+/=-]"
PASSWORD: Final = rf"([^\s/]{{1,{PASSWORD_LIMIT_CHARS}}})"
LONG: Final = f"{{{TOKEN_LEAST_CHARS},}}"
SHORT: Final = f"{{1,{TOKEN_LEAST_CHARS - 1}}}"


class Pattern(NamedTuple):
    """What looks like a credential: a beginning that is shown, and a part that is hidden.

    ``partial`` is what further text could make one, at the end of a text, ``partial_chars`` long at
    most. What is hidden may go on for ever as ``run``, where there is one. Each takes time in
    proportion to the text: after a beginning, one class of characters is read once.
    """

    name: str
    whole: re.Pattern[str]
    partial: re.Pattern[str]
    partial_chars: int
    run: re.Pattern[str] | None = None


class Span(NamedTuple, Generic[AnyStr]):
    """A hidden part of a text. ``kind`` is 0 for an exact value, else counts the patterns from 1.

    Of two that begin together, the exact one and the longer one sort first.
    """

    start: int
    kind: int
    minus_end: int
    name: str
    mark: AnyStr


class Secret(NamedTuple, Generic[AnyStr]):
    """A value to be found, and what is put in its place."""

    value: AnyStr
    name: str
    mark: AnyStr


PATTERNS: Final = (
    Pattern(
        "API key",
        re.compile(f"{KEY_BEGINNING}({KEY_CHAR}{LONG})"),
        re.compile(rf"{KEY_BEGINNING}({KEY_CHAR}{SHORT})\Z"),
        TOKEN_LEAST_CHARS + 6,
        re.compile(f"{KEY_CHAR}*"),
    ),
    # Looked at and not read: a token's end may be the beginning of another one.
    Pattern(
        "bearer token",
        re.compile(f"{BEARER_BEGINNING}(?=({BEARER_CHAR}{LONG}))"),
        re.compile(rf"{BEARER_BEGINNING}({BEARER_CHAR}{SHORT})\Z"),
        TOKEN_LEAST_CHARS + 6,
        re.compile(f"{BEARER_CHAR}*"),
    ),
    Pattern(
        "connection string",
        re.compile(f"{URL_BEGINNING}{PASSWORD}@"),
        re.compile(rf"{URL_BEGINNING}{PASSWORD}\Z"),
        CONTEXT_CHARS + PASSWORD_LIMIT_CHARS,
    ),
)


class Redactor:
    """Takes ``secrets``, by name, out of what one script says.

    ``found`` counts the marks that were set, by the name of the secret or of the pattern.
    """

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self.found: Counter[str] = Counter()
        self._bytes = [_secret(name, value) for name, value in secrets.items() if value]
        self._texts = [Secret(_shown(v), name, _shown(mark)) for v, name, mark in self._bytes]

    def text(self, text: str) -> str:
        return self.hide(text, self.spans(text), 0, len(text))[0]

    def value(self, value: Any) -> Any:
        """The same for every text of a JSON value that is not nested without a limit; keys too."""
        # Most values have no secret in them, and one look at all their texts is cheap.
        if any(True for _ in self.spans(SEAM.join(_texts(value)))):
            return self._walk(value)
        return value

    def data(self, data: bytes) -> bytes:
        """The same for a file. Here nothing is guessed: only exact values are found."""
        return self.hide(data, _exact(data, self._bytes, 0), 0, len(data))[0]

    def stream(self) -> "Stream":
        return Stream(self)

    def spans(self, text: str, at: int = 0) -> Iterator[Span[str]]:
        """What is to be hidden from ``at`` on, in no order. What stands before it is context."""
        yield from _exact(text, self._texts, at)
        # A full context may have lost what stood before its first character.
        look_from = 1 if at >= CONTEXT_CHARS else 0
        for kind, pattern in enumerate(PATTERNS, 1):
            for match in pattern.whole.finditer(text, look_from):
                start, end = match.span(1)
                if start >= at:
                    yield Span(start, kind, -end, pattern.name, MARK)

    def undecided(self, text: str, at: int) -> int:
        """Where something begins, from ``at`` on, that further text could make a secret."""
        first = len(text)
        for secret in self._texts:
            first = min(first, _beginning(text, secret.value, at))
        for pattern in PATTERNS:
            window = max(0, len(text) - pattern.partial_chars)
            if (match := pattern.partial.search(text, window)) is not None:
                first = min(first, max(at, match.start(1)))
        return first

    def hide(
        self, text: AnyStr, spans: Iterable[Span[AnyStr]], begin: int, cut: int
    ) -> tuple[AnyStr, int]:
        """Set and count the marks between ``begin`` and ``cut``; say how far the last one covers.

        What lies before ``begin`` is covered already, and what overlaps it is too.
        """
        pieces = []
        for start, _, minus_end, name, mark in sorted(spans):
            if start >= cut:
                break
            if start >= begin:
                pieces += [text[begin:start], mark]
                self.found[name] += 1
            begin = max(begin, -minus_end)
        pieces.append(text[begin:cut])
        return text[:0].join(pieces), max(begin, cut)

    def _walk(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(key): self._walk(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._walk(item) for item in value]
        return value


class Stream:
    """Takes secrets out of a text that comes in pieces: the same as from the text as a whole.

    It holds back no more than the longest secret, or what may become a password.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        # What was given out last, then from ``_at`` on what is held back.
        self._text = ""
        self._at = 0
        self._covered_to = 0
        self._run: re.Pattern[str] | None = None

    def push(self, text: str) -> str:
        """Give out what no further text can make a secret."""
        joined = self._joined(text)
        return self._give_out(joined, self._redactor.undecided(joined, self._at))

    def finish(self) -> str:
        """Give out what was held back."""
        return self._give_out(self._text, len(self._text))

    def _joined(self, text: str) -> str:
        joined = self._text + text
        if self._run is not None and (match := self._run.match(joined, len(self._text))):
            self._covered_to = match.end()
            if match.end() < len(joined):
                self._run = None
        return joined

    def _give_out(self, text: str, cut: int) -> str:
        spans = sorted(self._redactor.spans(text, self._at))
        begin = max(self._at, self._covered_to)
        shown, end = self._redactor.hide(text, spans, begin, cut)
        self._run = self._run or _open_run(spans, cut, len(text))
        context = max(0, cut - CONTEXT_CHARS)
        self._text = text[context:]
        self._at = cut - context
        self._covered_to = end - context
        return shown


def _open_run(spans: list[Span[str]], cut: int, end: int) -> re.Pattern[str] | None:
    """The run of a mark already set that the next piece of text may go on with."""
    for span in spans:
        if span.start < cut and span.kind and -span.minus_end == end:
            return PATTERNS[span.kind - 1].run
    return None


def _secret(name: str, value: str) -> Secret[bytes]:
    mark = MARK if len(value) <= SHOWN_CHARS else f"[REDACTED...{value[-SHOWN_CHARS:]}]"
    # The environment's values have what is no UTF-8 as surrogates.
    return Secret(
        value.encode(errors="surrogateescape"), name, mark.encode(errors="surrogateescape")
    )


def _shown(value: bytes) -> str:
    """A value as it stands in output that was decoded."""
    return value.decode(errors="replace").replace("\0", "\ufffd")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _exact(text: AnyStr, secrets: list[Secret[AnyStr]], at: int) -> Iterator[Span[AnyStr]]:
    """The places of every value; of those that overlap one of its own, the last is enough."""
    for value, name, mark in secrets:
        size = len(value)
        start = text.find(value, at)
        while start >= 0:
            yield Span(start, 0, -start - size, name, mark)
            last = text.rfind(value, start + 1, start + 2 * size - 1)
            start = last if last >= 0 else text.find(value, start + size)


def _beginning(text: str, value: str, at: int) -> int:
    """Where the text ends with the beginning of a value, and not with all of it."""
    start = text.find(value[0], max(at, len(text) - len(value) + 1))
    while start >= 0:
        if value.startswith(text[start:]):
            return start
        start = text.find(value[0], start + 1)
    return len(text)
