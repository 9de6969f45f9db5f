"""``python -m app``, also installed as ``insula``. Parses arguments, nothing else."""

import gc
import sys
from collections.abc import Sequence

from app.kernel.settings import SettingsError, load
from app.settings import ENVIRON, HouseSettings

# Nearly all that is made while modules are imported stays: looking for cycles in it, after every
# 700 objects, would be a tenth of the start.
GC_THRESHOLD = 50_000


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve, or run the command that is named first."""
    gc.set_threshold(GC_THRESHOLD)
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words in ([], ["serve"]):
            _serve()
        else:
            from app.commands import run

            run(words)
    except (SettingsError, OSError) as error:
        sys.exit(f"insula: {error}")


def _serve() -> None:
    from importlib.metadata import version

    from app.server import serve

    serve(load(HouseSettings, ENVIRON), version("insula"))


if __name__ == "__main__":
    main()
