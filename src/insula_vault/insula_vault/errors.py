"""What can go wrong. Each error says in its text what to do next; none carries a secret."""

from collections.abc import Mapping
from typing import Any


class VaultError(Exception):
    """Everything that this package raises on purpose."""


class IntegrityError(VaultError):
    """The store shows what was never written so: changed, moved, rolled back, hidden or forked.

    Nothing of it was taken over. Do not write before the cause is known.
    """


class Conflict(VaultError):
    """Another device changed the record first.

    ``etag`` is its current revision, ``None`` when it is gone: read it, merge, and write again.
    """

    def __init__(self, record_id: str, etag: str | None) -> None:
        now = "it is gone" if etag is None else f"it is now {etag}"
        super().__init__(f"Record {record_id} was changed meanwhile: {now}.")
        self.record_id = record_id
        self.etag = etag


class NotFound(VaultError):
    """There is no such record, backup or collection."""


class Refused(VaultError):
    """The server said no. ``kind`` is the last part of the problem's type."""

    def __init__(self, status: int, kind: str, detail: str, extras: Mapping[str, Any]) -> None:
        super().__init__(f"{status} {kind}: {detail}")
        self.status = status
        self.kind = kind
        self.extras = dict(extras)


class Unreachable(VaultError):
    """No answer, also after the retries that are safe."""


class OutcomeUnknown(Unreachable):
    """A change was sent and its answer was lost: ``sync`` shows whether it was made."""


class SecretRefused(VaultError):
    """A secret is 8 to 1024 bytes of text."""


class DerivationRefused(VaultError):
    """The server asked for a derivation so cheap that it could guess the secret, or too dear."""


class AlgorithmMissing(VaultError):
    """The OpenSSL of this machine does not have the algorithm."""


class VectorRefused(VaultError):
    """A vector of the wrong length, with a NaN, or without a direction."""


class CollectionChanged(VaultError):
    """Another device gave the collection another key: open it again."""


class NumpyMissing(VaultError):
    """Vectors need numpy: install ``insula-vault[vectors]``."""
