"""Flows in files: those that come with the product, and the operator's ``<folder>/<name>.yaml``."""

import asyncio
import time
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
import yaml

from app.kernel import log
from app.kernel.errors import AppError
from app.modules.flows.domain.checks import DOCUMENT_LIMIT_BYTES, is_id, parse_flow
from app.modules.flows.domain.definitions import Flow

LOOK_EVERY_S: Final = 5.0
FILES_LIMIT: Final = 256
SUFFIX: Final = ".yaml"

_Stamp: TypeAlias = tuple[int, int, int]

_log = log.get("flows")


class _Read(msgspec.Struct, frozen=True):
    """What a file said when it was like this; nothing if that is no flow."""

    stamp: _Stamp
    flow: Flow | None


class YamlFlowFiles:
    """Looks at the files again when somebody asks and ``every_s`` have gone by, and reads those
    that have changed. A folder that is not there has no files.

    A file of the operator's stands before one of the same name that comes with the product, also
    when it cannot be read.
    """

    def __init__(self, folder: str, shipped: str, *, every_s: float = LOOK_EVERY_S) -> None:
        self._folders = (Path(shipped), Path(folder))
        self._every_s = every_s
        self._look_at_s = 0.0
        self._read: dict[Path, _Read] = {}
        self._refused: frozenset[str] = frozenset()
        self._flows: Mapping[str, Flow] = {}

    async def read(self) -> Mapping[str, Flow]:
        """Every flow by its id; the same object until a file changes. Where they cannot be looked
        at, what was read before stays.
        """
        if time.monotonic() >= self._look_at_s:
            self._look_at_s = time.monotonic() + self._every_s
            try:
                read = await asyncio.to_thread(self._look, self._read)
            except OSError as error:
                _log.warning("flows.files-unreadable", reason=str(error))
                return self._flows
            if read != self._read:
                self._read = read
                named = {path.stem: found.flow for path, found in read.items()}
                self._flows = {name: flow for name, flow in named.items() if flow is not None}
        return self._flows

    def _look(self, known: Mapping[Path, _Read]) -> dict[Path, _Read]:
        found: dict[Path, _Read] = {}
        for path in self._paths():
            try:
                stamp = _stamp(path)
            except FileNotFoundError:
                continue
            former = known.get(path)
            if former is None or former.stamp != stamp:
                former = _Read(stamp, _flow(path))
            found[path] = former
        return found

    def _paths(self) -> list[Path]:
        """The operator's come last."""
        paths = [path for folder in self._folders for path in _files(folder)]
        kept = [path for path in paths if is_id(path.stem)][:FILES_LIMIT]
        refused = frozenset(path.name for path in paths) - frozenset(path.name for path in kept)
        if refused != self._refused:
            _log.warning("flows.files-ignored", files=sorted(refused)[:FILES_LIMIT])
            self._refused = refused
        return kept


class _Loader(yaml.SafeLoader):
    """Plain data only: no alias, so that nothing grows, and no name twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(problem="an alias is not read here")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 - as in the parent
        names: set[str] = set()
        for key, _ in node.value:
            # A name that is no text is refused by the parent, or by the flow.
            name = key.value if isinstance(key, yaml.ScalarNode) else ""
            if name in names:
                text = f"{name!r} is there twice"
                raise yaml.constructor.ConstructorError(None, None, text, key.start_mark)
            names.add(name)
        return super().construct_mapping(node, deep)


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == SUFFIX)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _stamp(path: Path) -> _Stamp:
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _flow(path: Path) -> Flow | None:
    try:
        with path.open("rb") as file:
            text = file.read(DOCUMENT_LIMIT_BYTES + 1)
        if len(text) > DOCUMENT_LIMIT_BYTES:
            raise ValueError(f"it has more than {DOCUMENT_LIMIT_BYTES // 1024} KiB")
        return parse_flow(_named(path.stem, yaml.load(text, _Loader)))  # noqa: S506 - a SafeLoader, and stricter
    except (AppError, OSError, ValueError, yaml.YAMLError) as error:
        reason = str(error)
    except RecursionError:
        reason = "it is nested too deep"
    _log.warning("flows.file-unreadable", file=path.name, reason=reason)
    return None


def _named(name: str, document: object) -> object:
    """A file's flow is called what the file is called."""
    if not isinstance(document, dict):
        return document
    if document.get("flow_id", name) != name:
        raise ValueError(f"flow_id is not {name!r}, which this file is called")
    return {"flow_id": name, **document}
