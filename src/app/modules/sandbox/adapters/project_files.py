"""Projects in the operator's files: ``<folder>/<name>.yaml``."""

import asyncio
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
import yaml

from app.kernel import log
from app.kernel.errors import AppError
from app.modules.sandbox.domain.projects import NAME, Entry, parse_project

FILE_LIMIT_BYTES: Final = 64 * 1024
FILES_LIMIT: Final = 256
SUFFIX: Final = ".yaml"

_Stamp: TypeAlias = tuple[int, int, int]

_log = log.get("sandbox")


class _Read(msgspec.Struct, frozen=True):
    """What a file said when it was like this."""

    stamp: _Stamp
    entry: Entry


class YamlProjectFiles:
    """Reads a file again only when it has changed. A folder that is not there has no files."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._read: dict[str, _Read] = {}
        self._refused: frozenset[str] = frozenset()

    async def read(self) -> Mapping[str, Entry]:
        """Every project that has a file, by its name, also one whose file cannot be read."""
        self._read = await asyncio.to_thread(self._look, dict(self._read))
        return {name: read.entry for name, read in self._read.items()}

    def _look(self, known: Mapping[str, _Read]) -> dict[str, _Read]:
        found: dict[str, _Read] = {}
        for path in self._paths():
            try:
                stamp = _stamp(path)
            except FileNotFoundError:
                continue
            former = known.get(path.stem)
            if former is None or former.stamp != stamp:
                former = _Read(stamp, _entry(path))
                if former.entry.error:
                    _log.warning("sandbox.project-unreadable", reason=former.entry.error)
            found[path.stem] = former
        return found

    def _paths(self) -> list[Path]:
        try:
            names = sorted(path.name for path in self._folder.iterdir() if path.suffix == SUFFIX)
        except (FileNotFoundError, NotADirectoryError):
            return []
        kept = [name for name in names if NAME.fullmatch(name.removesuffix(SUFFIX))][:FILES_LIMIT]
        refused = frozenset(names) - frozenset(kept)
        if refused != self._refused:
            _log.warning("sandbox.project-files-ignored", files=sorted(refused)[:FILES_LIMIT])
            self._refused = refused
        return [self._folder / name for name in kept]


class _Loader(yaml.SafeLoader):
    """Plain data only: no alias, so that nothing grows, and no name twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(problem="an alias is not read here")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 - as in the parent
        names: set[str] = set()
        for key, _ in node.value:
            # A name that is no text is refused by the parent, or by the project.
            name = key.value if isinstance(key, yaml.ScalarNode) else ""
            if name in names:
                text = f"{name!r} is there twice"
                raise yaml.constructor.ConstructorError(None, None, text, key.start_mark)
            names.add(name)
        return super().construct_mapping(node, deep)


def _stamp(path: Path) -> _Stamp:
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _entry(path: Path) -> Entry:
    name = path.stem
    try:
        with path.open("rb") as file:
            text = file.read(FILE_LIMIT_BYTES + 1)
        if len(text) > FILE_LIMIT_BYTES:
            raise ValueError(f"it has more than {FILE_LIMIT_BYTES // 1024} KiB")
        document = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader, and stricter
        return Entry(name, "file", parse_project(name, document))
    except yaml.MarkedYAMLError as error:
        return _broken(path, _plain(error))
    except (AppError, OSError, ValueError, yaml.YAMLError) as error:
        return _broken(path, str(error))
    except RecursionError:
        return _broken(path, "it is nested too deep")


def _broken(path: Path, why: str) -> Entry:
    return Entry(path.stem, "file", None, f"{path.name}: {why}")


def _plain(error: yaml.MarkedYAMLError) -> str:
    """Say what is wrong and where, without the text around it, which may be a secret."""
    mark = error.problem_mark
    where = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
    said = ", ".join(text for text in (error.context, error.problem) if text)
    return f"{said or 'it is no YAML'}{where}"
