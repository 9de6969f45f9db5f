"""Images of a base, the code of the jail and a project's packages, named by their content."""

import asyncio
import hashlib
import json
import tarfile
from contextlib import suppress
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from docker.errors import APIError

import insula_jail
from app.modules.sandbox.adapters.docker.engine import Engine, EngineFailed
from app.modules.sandbox.adapters.docker.options import APP, STAGE, DockerOptions
from app.modules.sandbox.ports import TemplateFailed

REPOSITORY: Final = "insula-sandbox"
# Where the image has the package insula_jail, and the project's packages.
JAIL_PATH: Final = "/opt/insula"
PACKAGES_PATH: Final = "/packages"
# Official images have no compiled modules, and a container that is read-only keeps none. The first
# step is the same for all images of a base, and is done once.
COMPILE_ALL: Final = (
    "import compileall, sysconfig; "
    "compileall.compile_dir(sysconfig.get_path('stdlib'), quiet=2, workers=0)"
)
COMPILE_JAIL: Final = f"import compileall; compileall.compile_dir({JAIL_PATH!r}, quiet=2)"
LOG_TAIL_CHARS: Final = 8192
NOT_FOUND: Final = 404

# No shell takes part: requirements are lines of a file, and a wheel runs no code when installed.
PIP: Final = [
    *("python3", "-m", "pip", "install", "--no-cache-dir", "--disable-pip-version-check"),
    *("--no-input", "--only-binary=:all:", "--target", PACKAGES_PATH),
    *("-r", "/requirements.txt"),
]


class Images:
    """Builds what is not there yet, one image at a time."""

    def __init__(self, engine: Engine, options: DockerOptions) -> None:
        self._engine = engine
        self._options = options
        self._building = asyncio.Lock()

    async def of(self, packages: tuple[str, ...]) -> str:
        """The image with these packages; ``TemplateFailed`` with the end of pip's log."""
        base_id = await self._base_id()
        name = image_name(base_id, packages)
        async with self._building:
            if await self._id(name) is None:
                await self._build(name, base_id, packages)
        return name

    async def _base_id(self) -> str:
        found = await self._id(self._options.image)
        if found is not None:
            return found
        image = self._options.image
        name, _, tag = image.rpartition(":") if ":" in image.rpartition("/")[2] else (image, "", "")
        try:
            await self._engine.call(
                lambda client: client.pull(name, tag=tag or "latest"),
                timeout_s=self._options.build_timeout_s,
            )
        except EngineFailed as error:
            text = f"The image {image} is not there and could not be pulled: {error}"
            raise TemplateFailed(text) from None
        found = await self._id(image)
        if found is None:
            raise TemplateFailed(f"The image {image} is not there and could not be pulled.")
        return found

    async def _id(self, image: str) -> str | None:
        try:
            facts = await self._engine.call(lambda client: client.inspect_image(image))
        except EngineFailed as error:
            if error.status == NOT_FOUND:
                return None
            raise
        return str(facts["Id"])

    async def _build(self, name: str, base_id: str, packages: tuple[str, ...]) -> None:
        limit_s = self._options.build_timeout_s
        stage = uuid4().hex
        try:
            request = self._request(name, stage, base_id, packages)
            log, failure = await self._engine.call(
                lambda client: _built(client, request, stage), timeout_s=limit_s
            )
        except EngineFailed as error:
            raise TemplateFailed(f"The packages were not installed: {error}") from None
        if failure:
            text = self._without_index(f"{log}\n{failure}".strip())[-LOG_TAIL_CHARS:]
            raise TemplateFailed(f"The packages could not be installed:\n{text}")

    def _without_index(self, text: str) -> str:
        index = str(self._options.index_url)
        return text.replace(index, "***") if index else text

    def _request(
        self, name: str, stage: str, base_id: str, packages: tuple[str, ...]
    ) -> dict[str, Any]:
        options = self._options
        # The index may hold a password: only the stage that is thrown away sees it.
        arguments = {"PIP_INDEX_URL": str(options.index_url)} if options.index_url else {}
        return {
            "fileobj": BytesIO(_folder(stage, base_id, packages)),
            "custom_context": True,
            "tag": name,
            "rm": True,
            "forcerm": True,
            "labels": {APP: "image"},
            "buildargs": arguments,
            "network_mode": (options.build_network or None) if packages else "none",
            "timeout": options.build_timeout_s,
            "decode": True,
        }


def image_name(base_id: str, packages: tuple[str, ...]) -> str:
    """Name an image after all that goes into it, in any order."""
    parts = json.dumps([base_id, sorted(set(packages)), worker_version()])
    return f"{REPOSITORY}:{hashlib.sha256(parts.encode()).hexdigest()[:32]}"


@cache
def worker_version() -> str:
    """Hash of the code that runs inside."""
    parts = [[str(p.name), hashlib.sha256(p.read_bytes()).hexdigest()] for p in _jail_files()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _jail_files() -> list[Path]:
    return sorted(Path(str(insula_jail.__file__)).parent.glob("*.py"))


def _recipe(stage: str, base_id: str, packages: tuple[str, ...]) -> str:
    last = [
        f"FROM {base_id}",
        f"RUN {json.dumps(_python(COMPILE_ALL))}",
        f"COPY insula_jail {JAIL_PATH}/insula_jail",
        f"RUN {json.dumps(_python(COMPILE_JAIL))}",
    ]
    if not packages:
        return "\n".join(last)
    first = [
        f"FROM {base_id} AS packages",
        f"LABEL {STAGE}={stage}",
        "ARG PIP_INDEX_URL",
        "COPY requirements.txt /requirements.txt",
        f"RUN {json.dumps(PIP)}",
    ]
    return "\n".join([*first, *last, f"COPY --from=packages {PACKAGES_PATH} {PACKAGES_PATH}"])


def _python(code: str) -> list[str]:
    return ["python3", "-I", "-S", "-c", code]


def _folder(stage: str, base_id: str, packages: tuple[str, ...]) -> bytes:
    """What the engine builds from, as a tar."""
    requirements = "".join(f"{package}\n" for package in sorted(set(packages)))
    files = {
        "Dockerfile": _recipe(stage, base_id, packages).encode(),
        "requirements.txt": requirements.encode(),
        **{f"insula_jail/{path.name}": path.read_bytes() for path in _jail_files()},
    }
    packed = BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, BytesIO(content))
    return packed.getvalue()


def _built(client: Any, request: dict[str, Any], stage: str) -> tuple[str, str]:
    """Build in a thread; return the end of the log, and why it failed or nothing."""
    log, failure = "", ""
    for line in client.build(**request):
        log = (log + line.get("stream", ""))[-LOG_TAIL_CHARS:]
        failure = str(line.get("error", failure))
    # Another one who tidies up at this moment does the same.
    with suppress(APIError):
        client.prune_images(filters={"dangling": True, "label": f"{STAGE}={stage}"})
    return log, failure
