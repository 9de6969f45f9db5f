"""What a client was given, checked."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from ai_spine.exceptions import ValidationError

DEFAULT_BASE_URL = "https://ai-spine-api-production.up.railway.app"
TIMEOUT_MAX_S = 86_400
RETRIES_MAX = 10
# What a header can carry, and what no escape can hide in JSON.
_KEY = re.compile(r"[!#-\[\]-~]+")


@dataclass(frozen=True)
class Settings:
    """``timeout_s`` is for one attempt; there are ``max_retries`` after the first."""

    base_url: str
    api_key: str = field(repr=False)
    timeout_s: float
    max_retries: int
    debug: bool

    def __post_init__(self) -> None:
        _check_url(self.base_url)
        if self.api_key and not _KEY.fullmatch(self.api_key):
            raise ValidationError("api_key has characters that no key has.")
        if self.max_retries not in range(RETRIES_MAX + 1):
            raise ValidationError(f"max_retries is 0 to {RETRIES_MAX}.")
        checked_timeout("timeout", self.timeout_s)


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        is_whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_whole = False
    if not is_whole or parts.scheme not in ("http", "https"):
        raise ValidationError("base_url must be an address with http:// or https://.")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValidationError("base_url has no user, query or fragment.")


def settings(
    api_key: str | None,
    base_url: str | None,
    timeout: float,
    max_retries: int,
    *,
    debug: bool,
) -> Settings:
    url = (base_url or DEFAULT_BASE_URL).strip().rstrip("/")
    return Settings(url, api_key or "", timeout, max_retries, debug)


def checked_timeout(name: str, seconds: float) -> float:
    """``seconds``, when they are a time that can be waited."""
    is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not is_number or not 0 < seconds <= TIMEOUT_MAX_S:
        raise ValidationError(f"{name} is more than 0 and at most {TIMEOUT_MAX_S} s.")
    return float(seconds)
