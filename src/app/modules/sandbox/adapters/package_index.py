"""Where pip looks for packages, and which of the host's paths it needs for that."""

import os
from collections.abc import Iterator, Mapping
from configparser import Error, RawConfigParser
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

import msgspec

# Places where packages are, each a path, an address, or several of them.
_PLACES: Final = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX")
# Files and folders of certificates.
_CERTIFICATES: Final = (
    "PIP_CERT",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
)
_WAYS: Final = (
    "PIP_TRUSTED_HOST",
    "PIP_PROXY",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
)
# The server's variables that the installer may see, and no other.
INDEX_VARIABLES: Final = frozenset((*_PLACES, *_CERTIFICATES, *_WAYS, "PIP_CONFIG_FILE"))
CONFIG_FILES: Final = ("/etc/xdg/pip/pip.conf", "/etc/pip.conf")
CONFIG_LIMIT_BYTES: Final = 64 * 1024


class Index(msgspec.Struct, frozen=True):
    """The index of packages: ``url``, or where it is empty, what pip is told by the server's
    ``variables`` (only those of ``INDEX_VARIABLES`` count) and by the host's configuration.
    """

    url: str = ""
    variables: Mapping[str, str] = {}
    config_files: tuple[str, ...] = CONFIG_FILES

    def __repr__(self) -> str:
        """Addresses may have passwords in them."""
        return "Index(***)"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that pip is given."""
        seen = {name: text for name, text in self.variables.items() if name in INDEX_VARIABLES}
        if not self.url:
            return seen
        kept = {name: text for name, text in seen.items() if name in (*_CERTIFICATES, *_WAYS)}
        return kept | {"PIP_INDEX_URL": self.url, "PIP_CONFIG_FILE": os.devnull}

    def paths(self) -> list[str]:
        """Files and folders of the host that pip has to read for this."""
        given = self.environment
        files = [given[name] for name in (*_CERTIFICATES, "PIP_CONFIG_FILE") if name in given]
        places = [place for name in _PLACES for place in given.get(name, "").split()]
        if "PIP_CONFIG_FILE" not in given or not self.url:
            configs = [*self.config_files, *(given.get("PIP_CONFIG_FILE", "").split())]
            files += configs
            places += [place for path in configs for place in _configured(path)]
        found = [*files, *(local for place in places if (local := _local(place)))]
        return sorted({path for path in found if Path(path).is_absolute() and _is_there(path)})


def _is_there(path: str) -> bool:
    return Path(path).exists() and path != os.devnull


def _local(place: str) -> str:
    """The folder or file that a place is; an empty text for one that is on the network."""
    if place.startswith("file:"):
        return url2pathname(urlsplit(place).path)
    return place if place.startswith("/") else ""


def _configured(path: str) -> Iterator[str]:
    """Every path and address in one of pip's configuration files."""
    config = RawConfigParser(strict=False)
    try:
        with Path(path).open(encoding="utf-8") as file:
            config.read_string(file.read(CONFIG_LIMIT_BYTES))
    except (OSError, ValueError, Error):
        # What pip cannot read either, it says itself.
        return
    for section in config.sections():
        for _, text in config.items(section):
            yield from text.split()
