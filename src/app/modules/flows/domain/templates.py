"""Templates: texts with ``{name}`` in the place of what the input has under that name."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from app.kernel.errors import Invalid

RESULT_LIMIT_BYTES: Final = 1024 * 1024
SHOWN_CHARS: Final = 64

_PART: Final = re.compile(r"(?P<text>[^{}]+|\{\{|\}\})|\{(?P<path>[\w-]+(?:\.[\w-]+)*)\}")


class TemplateInvalid(Invalid):
    """A brace in it begins, or ends, nothing."""

    title = "Template invalid"


class TemplateFailed(Invalid):
    """The template cannot be filled from this input."""

    title = "Template failed"


def names_of(template: str) -> tuple[str, ...]:
    """What is looked up, ``a.b.0`` for one, each once; ``TemplateInvalid``."""
    return tuple(dict.fromkeys(path for _, path in _parts(template) if path))


def fill(template: str, values: Mapping[str, Any]) -> str:
    """Put the values in: texts as they are, everything else as JSON. What is put in is not read
    again. ``TemplateFailed`` names what is missing; ``TemplateInvalid``.
    """
    made: list[str] = []
    left = RESULT_LIMIT_BYTES
    for text, path in _parts(template):
        piece = _shown(_found(values, path)) if path else text
        left -= len(piece.encode(errors="surrogatepass"))
        if left < 0:
            raise TemplateFailed(f"The text would have more than {RESULT_LIMIT_BYTES} bytes.")
        made.append(piece)
    return "".join(made)


def _parts(template: str) -> Iterator[tuple[str, str]]:
    """Texts and paths in turn, one of each pair empty."""
    place = 0
    while place < len(template):
        part = _PART.match(template, place)
        if part is None:
            shown = template[place : place + SHOWN_CHARS]
            text = f"{shown!r} begins with a brace that is part of no {{name}}. Write it twice."
            raise TemplateInvalid(text)
        text = part["text"] or ""
        yield text[:1] if text in ("{{", "}}") else text, part["path"] or ""
        place = part.end()


def _found(values: Mapping[str, Any], path: str) -> Any:
    value: Any = values
    for step in path.split("."):
        if isinstance(value, Mapping) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            raise TemplateFailed(f"The input has no {path[:SHOWN_CHARS]!r}.", missing=path)
    return value


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
