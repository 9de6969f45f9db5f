"""Who is measured, and how each of them is started."""

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.processes import Server, free_port

ROOT: Final = Path(__file__).resolve().parent.parent

DIRECT = "direct"
REFERENCE = "raw + aiohttp"
TWIN = "raw + aiohttp, again"
LITESTAR = "Litestar @asgi + aiohttp"
OWN = "raw + our client"
BARE = "bare ASGI"
INSULA = "Insula"
SMG = "smg"
LITELLM = "LiteLLM"

CLIENT_KEY = "sk-bench-4f6d1c8a90b7e2354f6d1c8a90b7e235"
UPSTREAM_KEY = "sk-upstream"
UPSTREAM = "mock"
QUESTION = "Hello, how are you?"
FILLER = "The quick brown fox jumps over the lazy dog. "


def body(
    model: str,
    *,
    stream: bool = False,
    script: str = "",
    prompt_bytes: int = 0,
    tells_usage: bool = True,
) -> str:
    """A request; every model that is ever asked for must be in MODELS.

    ``script`` numbers the call and says what the upstream is to do: see ``upstream.c``.
    """
    asked: dict[str, object] = {"model": model}
    if stream:
        asked["stream"] = True
    if stream and tells_usage:
        asked["stream_options"] = {"include_usage": True}
    content = FILLER * (prompt_bytes // len(FILLER)) or QUESTION
    asked["messages"] = [{"role": "user", "content": f"{script} {content}".lstrip()}]
    return json.dumps(asked, separators=(",", ":"))


PLAIN_MODEL = "mock"
FAST_MODEL = "mock-n100-d0"
PACED_MODEL = "mock-n100-d10"
MODELS: Final = (PLAIN_MODEL, FAST_MODEL, PACED_MODEL)


@dataclass(frozen=True)
class Places:
    """Where the programs are and where a run may write."""

    upstream: Path
    load: Path
    python: str
    scratch: Path
    lean_python: str | None = None
    litellm_python: str | None = None
    smg_python: str | None = None


class Street:
    """One upstream, and the gateways that can be put in front of it."""

    def __init__(self, places: Places) -> None:
        port = free_port()
        command = (str(places.upstream), "-p", str(port), "-m", " ".join(MODELS))
        self.places = places
        self.upstream = Server(DIRECT, command, {}, port, key=UPSTREAM_KEY)
        self.upstream_url = f"http://127.0.0.1:{port}/v1"

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Run the upstream."""
        with self.started(self.upstream):
            self.upstream.wait_for("/v1/models")
            yield

    @contextlib.contextmanager
    def started(self, server: Server) -> Iterator[Server]:
        server.start(log=self.folder() / "log", folder=ROOT)
        try:
            yield server
        finally:
            server.stop()

    def reference(self, name: str = REFERENCE, *, app: str = "benchmarks.reference:app") -> Server:
        port = free_port()
        options = (
            "--interface asgi --http 1 --no-ws --loop uvloop --runtime-mode auto --workers 1 "
            f"--workers-kill-timeout 30 --log-level error --host 127.0.0.1 --port {port}"
        )
        command = (self.places.python, "-m", "granian", *options.split(), app)
        environment = {"BENCH_UPSTREAM": self.upstream_url, "BENCH_KEY": CLIENT_KEY}
        return Server(name, command, environment, port, key=CLIENT_KEY)

    def litestar(self) -> Server:
        return self.reference(LITESTAR, app="benchmarks.reference_litestar:app")

    def own(self) -> Server:
        return self.reference(OWN, app="benchmarks.reference:own")

    def bare(self) -> Server:
        return self.reference(BARE, app="benchmarks.reference:bare")

    def insula(
        self, data: Path, *, python: str | None = None, settings: Mapping[str, str] | None = None
    ) -> Server:
        port = free_port()
        environment = {
            "APP_PORT": str(port),
            "APP_DATA": str(data),
            "APP_BOOTSTRAP_KEY": CLIENT_KEY,
            f"EXTERNAL_{UPSTREAM.upper()}_KEY": UPSTREAM_KEY,
            f"{UPSTREAM.upper()}_BASE_URL": self.upstream_url,
            **(settings or {}),
        }
        command = (python or self.places.python, "-m", "app")
        return Server(INSULA, command, environment, port, key=CLIENT_KEY)

    def smg(self) -> Server:
        port = free_port()
        options = (
            f"--worker-urls http://127.0.0.1:{self.upstream.port} --backend openai "
            f"--host 127.0.0.1 --port {port} --history-backend none --log-level error "
            f"--prometheus-host 127.0.0.1 --prometheus-port {free_port()} "
            "--disable-circuit-breaker --disable-retries"
        )
        program = Path(self.places.smg_python or "").with_name("smg")
        return Server(SMG, (str(program), "launch", *options.split()), {}, port, key=CLIENT_KEY)

    def litellm(self) -> Server:
        port = free_port()
        config = self.places.scratch / "litellm.yaml"
        config.write_text(json.dumps(self._litellm_config()))
        program = Path(self.places.litellm_python or "").parent / "litellm"
        options = f"--port {port} --host 127.0.0.1 --num_workers 1 --telemetry False"
        environment = {
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_TELEMETRY": "False",
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_LOG": "ERROR",
            "NO_DOCS": "True",
        }
        command = (str(program), "--config", str(config), *options.split())
        return Server(LITELLM, command, environment, port, key=CLIENT_KEY)

    def peers(self) -> list[Server]:
        """The other gateways that there is an environment for."""
        found = [self.smg()] if self.places.smg_python else []
        return [*found, self.litellm()] if self.places.litellm_python else found

    def _litellm_config(self) -> dict[str, object]:
        return {
            "model_list": [
                {
                    "model_name": model,
                    "litellm_params": {
                        "model": f"openai/{model}",
                        "api_base": self.upstream_url,
                        "api_key": UPSTREAM_KEY,
                    },
                }
                for model in MODELS
            ],
            "litellm_settings": {"telemetry": False, "set_verbose": False},
            "general_settings": {"master_key": CLIENT_KEY},
        }

    def folder(self) -> Path:
        """A new, empty folder."""
        return Path(tempfile.mkdtemp(dir=self.places.scratch))


def ready_path(name: str) -> str:
    return "/health/liveliness" if name == LITELLM else "/health"


def make_ready(server: Server) -> float:
    """Wait for the first 200 and then for the first answer; the seconds to the former."""
    seconds = server.wait_for(ready_path(server.name))
    server.wait_for("/v1/chat/completions", body=body(PLAIN_MODEL), key=server.key)
    return seconds
