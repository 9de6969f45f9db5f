"""Local inference: one MLX model in a child process that is watched and, when it dies, replaced.

Metal aborts the process it fails in, and a wedged step cannot be ended from within. In a process
of its own neither takes the API along.
"""

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from time import monotonic

import aiohttp
import msgspec

from app.kernel import log
from app.kernel.errors import NotBuilt, Unavailable
from app.modules.routing.adapters.openai import OpenAIUpstream
from app.modules.routing.domain.envelope import Surface
from app.modules.routing.ports import Answer, AnswerStream, Ask, HttpClient

CHILD = "app.modules.routing.adapters.mlx_child"
LINE_LIMIT_CHARS = 500
MISSES_LIMIT = 3
DOUBLINGS_LIMIT = 10
LIST_WAIT_S = 5.0
# A child that lived this long was well: the next back-off starts small again.
WELL_AFTER_S = 60.0

_log = log.get("routing")


class MlxMissing(NotBuilt):
    """The packages of the extra ``mlx`` are not installed."""

    title = "Local inference is not installed"


class MlxDown(Unavailable):
    """The child is starting, or died and will be started again."""

    title = "Local inference unavailable"


class MlxOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the child runs, how much it takes on, and how long it is waited for."""

    model: str
    cache_bytes: int = 2**31
    parallel: int = 4
    queue_limit: int = 32
    start_timeout_s: float = 900.0
    stop_timeout_s: float = 10.0
    ping_every_s: float = 2.0
    ping_timeout_s: float = 10.0
    backoff_s: float = 0.5
    backoff_limit_s: float = 30.0


class _Hello(msgspec.Struct, frozen=True):
    """The child's one line: where it listens, or why it does not."""

    port: int = 0
    model: str = ""
    error: str = ""


class _Live(msgspec.Struct, frozen=True):
    """A child that is ready."""

    pid: int
    port: int
    model: str


class MlxChild:
    """Keeps one child running. ``base_url`` is another one after each restart."""

    def __init__(self, options: MlxOptions) -> None:
        self._options = options
        self._live: _Live | None = None
        self._problem = "The local model is starting."
        self._next_start_at = 0.0
        self._settled = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the child and wait until it is ready; give up if it does not become so."""
        self.begin()
        await self._settled.wait()
        if self._live is None:
            await self.stop()
            raise MlxDown(self._problem)

    def begin(self) -> None:
        """Start the child and keep starting it, without waiting. Harmless the second time."""
        if any(find_spec(name) is None for name in ("mlx", "mlx_lm")):
            text = "Run `uv sync --extra mlx` or `pip install 'insula[mlx]'`."
            raise MlxMissing(f"{MlxMissing.title}. {text}")
        if self._task is None:
            self._settled.clear()
            self._task = asyncio.create_task(self._supervise(), name="mlx-child")

    async def settle(self, within_s: float) -> None:
        """Wait until the first start has succeeded or failed, or for ``within_s``."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._settled.wait(), within_s)

    async def stop(self) -> None:
        """End the child. It can be started again."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._task = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._ready().port}/v1"

    @property
    def model(self) -> str:
        """The name that the child answers to."""
        return self._ready().model

    @property
    def pid(self) -> int:
        return self._ready().pid

    def _ready(self) -> _Live:
        if self._live is None:
            wait_s = max(1.0, self._next_start_at - monotonic())
            raise MlxDown(self._problem, retry_after_s=wait_s)
        return self._live

    async def _supervise(self) -> None:
        failures = 0
        while True:
            began_at = monotonic()
            try:
                await self._live_once()
            except MlxDown as error:
                self._problem = str(error)
                _log.warning("routing.mlx-not-started", reason=self._problem)
            except Exception as error:  # noqa: BLE001 - nobody else would start the next child
                _log.exception("routing.mlx-supervision-failed", error)
            self._settled.set()
            if monotonic() - began_at > WELL_AFTER_S:
                failures = 0
            delay_s = min(self._options.backoff_limit_s, self._options.backoff_s * 2**failures)
            failures = min(failures + 1, DOUBLINGS_LIMIT)
            self._next_start_at = monotonic() + delay_s
            await asyncio.sleep(delay_s)

    async def _live_once(self) -> None:
        """Run one child from its start to its end, whichever way it ends."""
        process = await self._spawn()
        relays = [asyncio.create_task(_relay(process.stderr))]
        try:
            hello = await self._greet(process)
            relays.append(asyncio.create_task(_relay(process.stdout)))
            self._live = _Live(process.pid, hello.port, hello.model)
            self._settled.set()
            _log.info("routing.mlx-started", pid=process.pid, model=hello.model)
            await self._watch(process, f"http://127.0.0.1:{hello.port}/health")
            self._problem = "The local model is starting again."
        finally:
            self._live = None
            await self._end(process)
            for relay in relays:
                relay.cancel()

    async def _spawn(self) -> asyncio.subprocess.Process:
        options = self._options
        arguments = {
            "--model": options.model,
            "--cache-bytes": options.cache_bytes,
            "--parallel": options.parallel,
            "--queue": options.queue_limit,
        }
        words = [str(word) for pair in arguments.items() for word in pair]
        pipe = asyncio.subprocess.PIPE
        try:
            # -P: the folder that the server was started in is no place to import from. A session
            # of its own: Ctrl-C is for the server, which ends the child when it has drained.
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", CHILD, *words),
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                start_new_session=True,
            )
        except OSError as error:
            raise MlxDown(f"The child cannot be started: {error}") from error

    async def _greet(self, process: asyncio.subprocess.Process) -> _Hello:
        """Read the child's line."""
        try:
            async with asyncio.timeout(self._options.start_timeout_s):
                line = await _line(process.stdout)
                if not line:
                    raise MlxDown(f"The child ended with code {await process.wait()}.")
        except TimeoutError:
            text = f"The child was not ready after {self._options.start_timeout_s:g} s."
            raise MlxDown(text) from None
        try:
            hello = msgspec.json.decode(line, type=_Hello)
        except msgspec.DecodeError:
            raise MlxDown("The child speaks no known language.") from None
        if hello.error:
            raise MlxDown(f"{self._options.model} cannot be served: {hello.error}")
        return hello

    async def _watch(self, process: asyncio.subprocess.Process, health_url: str) -> None:
        """Return when the child has died, or has not answered for too long and must."""
        died = asyncio.create_task(process.wait())
        misses = 0
        timeout = aiohttp.ClientTimeout(total=self._options.ping_timeout_s)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as session:
                while misses < MISSES_LIMIT:
                    await asyncio.wait([died], timeout=self._options.ping_every_s)
                    if died.done():
                        _log.warning("routing.mlx-died", exit_code=died.result())
                        return
                    misses = 0 if await _is_well(session, health_url) else misses + 1
        finally:
            died.cancel()
        _log.warning("routing.mlx-wedged", pid=process.pid)
        _kill(process)

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        if process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(self._options.stop_timeout_s):
                await process.wait()
        except TimeoutError:
            _kill(process)
            await process.wait()


class MlxUpstream:
    """The child as an upstream, with a new client for each of its lives."""

    surfaces: frozenset[Surface] = frozenset({"chat/completions", "completions", "embeddings"})

    def __init__(self, options: MlxOptions, open_client: Callable[[str], HttpClient]) -> None:
        self._child = MlxChild(options)
        self._open_client = open_client
        self._base_url = ""
        self._server: OpenAIUpstream | None = None

    async def post(self, ask: Ask) -> Answer:
        server = await self._connected()
        return await server.post(ask)

    async def stream(self, ask: Ask) -> Answer | AnswerStream:
        server = await self._connected()
        return await server.stream(ask)

    async def models(self) -> list[str]:
        """Start the child with the first question. Loading a model may outlast the answer."""
        self._child.begin()
        await self._child.settle(LIST_WAIT_S)
        return [self._child.model]

    async def close(self) -> None:
        await self._child.stop()
        if self._server is not None:
            await self._server.close()

    async def _connected(self) -> OpenAIUpstream:
        self._child.begin()
        base_url = self._child.base_url
        if self._server is not None and base_url == self._base_url:
            return self._server
        former = self._server
        server = OpenAIUpstream("mlx", self._open_client(base_url), self.surfaces)
        self._server, self._base_url = server, base_url
        if former is not None:
            await former.close()
        return server


async def _is_well(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as response:
            return response.status == 200
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False


def _kill(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()


async def _line(stream: asyncio.StreamReader | None) -> bytes:
    """Return the next line, or nothing at the end. A line that is too long is skipped."""
    while stream is not None:
        with suppress(ValueError):
            return await stream.readline()
    return b""


async def _relay(stream: asyncio.StreamReader | None) -> None:
    """Log what the child prints. It prints no prompts, and neither do its libraries."""
    while line := await _line(stream):
        if text := line.decode(errors="replace").strip():
            _log.info("routing.mlx-said", line=text[:LINE_LIMIT_CHARS])
