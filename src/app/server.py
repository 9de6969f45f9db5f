"""The HTTP server. This file is all that the parent process loads, so that it stays small."""

import os
import shutil
import socket
import sys
from contextlib import closing

from granian.constants import HTTPModes, Interfaces, Loops
from granian.log import LogLevels
from granian.server import Server

from app.kernel.settings import SettingsError
from app.settings import ENVIRON, OWNER_ONLY, HouseSettings, export

METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(message)s"}},
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "formatter": "plain", "level": "WARNING"}
    },
    "loggers": {"_granian": {"handlers": ["stderr"], "propagate": False}},
}


def serve(settings: HouseSettings, version: str) -> None:
    """Listen until SIGTERM or SIGINT, then let requests in flight finish."""
    settings.refuse_wrong_combinations()
    os.umask(OWNER_ONLY)
    _refuse_taken_port(settings)
    if settings.workers > 1:
        _share_metrics(settings)
    server = Server(
        "app.asgi:create_app",
        factory=True,
        address=settings.host,
        port=settings.port,
        interface=Interfaces.ASGI,
        http=HTTPModes.http1,
        websockets=False,
        workers=settings.workers,
        loop=Loops.auto if sys.platform == "win32" else Loops.uvloop,
        workers_kill_timeout=settings.drain_s,
        log_level=LogLevels.warning,
        log_dictconfig=LOGGING,
    )
    where = f"http://{settings.host}:{settings.port}"
    server.on_startup(lambda: say(f"Insula {version} on {where} (docs: {where}/docs)"))
    server.serve()


def _share_metrics(settings: HouseSettings) -> None:
    """Give the workers a folder to count in together; each scrape reads all of it."""
    if not ENVIRON.get(METRICS_VARIABLE):
        folder = settings.data_dir / "metrics"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        export(METRICS_VARIABLE, str(folder))


def say(text: str) -> None:
    """Tell the person at the terminal."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _refuse_taken_port(settings: HouseSettings) -> None:
    """Find out before the worker starts: its own error would come as a traceback."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            taken = f"{settings.host}:{settings.port}: {error.strerror}"
            raise SettingsError(f"cannot listen on {taken}; set APP_HOST or APP_PORT") from None
