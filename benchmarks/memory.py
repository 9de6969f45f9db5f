"""Memory over many requests: what stays in use that was not in use before?"""

import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarks.furnish import furnished
from benchmarks.measure import PLAIN, SIXTEEN, Effort
from benchmarks.processes import BenchError, Server
from benchmarks.targets import Street

IDLE_S = 2.0
LOAD_LIMIT_S = 900

Growth = dict[str, Any]


def grow(street: Street, effort: Effort) -> Growth:
    """RSS of the server and its worker after the first so many requests, and after the last."""
    first, last = effort.soak
    body = street.folder() / "body.json"
    body.write_text(PLAIN)
    with furnished(street) as server:
        begin_mib = _rss_after(street, server, body, first)
        end_mib = _rss_after(street, server, body, last - first)
    return {
        "from_request": first,
        "to_request": last,
        "from_mib": round(begin_mib, 2),
        "to_mib": round(end_mib, 2),
        "growth": round(end_mib / begin_mib - 1, 5),
    }


def _rss_after(street: Street, server: Server, body: Path, count: int) -> float:
    options = f"-p {server.port} -c {SIXTEEN.connections} -d {LOAD_LIMIT_S} -n {count} -f {body}"
    header = f"authorization: Bearer {server.key}"
    command = (str(street.places.load), *options.split(), "-H", header)
    done = subprocess.run(command, capture_output=True, text=True, timeout=LOAD_LIMIT_S, check=True)
    if f'"answered":{count},' not in done.stdout:
        raise BenchError(f"{server.name} did not answer {count} requests: {done.stdout}")
    print(f"{count} requests for the memory", flush=True)
    time.sleep(IDLE_S)
    return server.rss_mib()
