"""argon2id, peppered, in a few threads of its own."""

import asyncio
import base64
import hmac
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError

from app.kernel import log
from app.kernel.errors import TooMany
from app.kernel.keys import Keyring
from app.modules.auth.domain import Verdict
from app.modules.auth.settings import AuthSettings

MAX_PARALLEL = 4
MAX_WAITING = 32
EXPECTED_HASH_S = 0.2
SALT_BYTES, HASH_BYTES = 16, 32
PEPPER_LABEL = "password-pepper"

T = TypeVar("T")

_log = log.get("auth")


class HashingBusy(TooMany):
    """More people log in at this moment than there are hands to check their passwords."""

    title = "Too many logins at once"


class Argon2idHasher:
    """What is stored is ``<key id>:<encoded hash>``: the pepper's secret, then argon2's own text.

    Memory is bounded by the threads, waiting by the places in the queue.
    """

    def __init__(self, settings: AuthSettings, keys: Keyring) -> None:
        threads = min(MAX_PARALLEL, os.cpu_count() or 1)
        self._argon2 = PasswordHasher(
            time_cost=settings.argon_iterations,
            memory_cost=settings.argon_memory_kib,
            parallelism=settings.argon_parallelism,
            hash_len=HASH_BYTES,
            salt_len=SALT_BYTES,
            type=Type.ID,
        )
        self._keys = keys
        self._nobodys = _encoded_without_preimage(settings)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="argon2id")
        self._places = threading.BoundedSemaphore(threads + MAX_WAITING)
        self._wait_s = EXPECTED_HASH_S * MAX_WAITING / threads

    async def hash(self, secret: bytes) -> str:
        key_id = self._keys.current
        encoded = await self._run(self._argon2.hash, self._peppered(secret, key_id))
        return f"{key_id}:{encoded}"

    async def verify(self, stored: str | None, secret: bytes) -> Verdict:
        key_id, _, encoded = (stored or "").partition(":")
        if key_id not in self._keys.ids:
            if stored is not None:
                _log.warning("auth.hash-of-unknown-secret", key_id=key_id)
            key_id, encoded = self._keys.current, self._nobodys
        return await self._run(self._compare, key_id, encoded, secret)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _compare(self, key_id: str, encoded: str, secret: bytes) -> Verdict:
        try:
            self._argon2.verify(encoded, self._peppered(secret, key_id))
        except VerifyMismatchError:
            return Verdict.WRONG
        except (VerificationError, InvalidHashError) as error:
            _log.exception("auth.hash-damaged", error)
            return Verdict.WRONG
        is_outdated = key_id != self._keys.current or self._argon2.check_needs_rehash(encoded)
        return Verdict.OUTDATED if is_outdated else Verdict.RIGHT

    def _peppered(self, secret: bytes, key_id: str) -> bytes:
        return hmac.digest(self._keys.derive(PEPPER_LABEL, key_id=key_id), secret, "sha256")

    async def _run(self, work: Callable[..., T], *arguments: object) -> T:
        """Run ``work`` in a thread. A caller who goes away frees their place if it still waits."""
        if not self._places.acquire(blocking=False):
            raise HashingBusy("Try again in a few seconds.", retry_after_s=self._wait_s)
        job: Future[T] = self._pool.submit(work, *arguments)
        job.add_done_callback(lambda _: self._places.release())
        return await asyncio.wrap_future(job)


def _encoded_without_preimage(settings: AuthSettings) -> str:
    """A hash that no password has: checking one against it costs what any other check costs."""
    memory_kib, passes = settings.argon_memory_kib, settings.argon_iterations
    costs = f"m={memory_kib},t={passes},p={settings.argon_parallelism}"
    salt, digest = (
        base64.b64encode(os.urandom(size)).decode().rstrip("=") for size in (SALT_BYTES, HASH_BYTES)
    )
    return f"$argon2id$v=19${costs}${salt}${digest}"
