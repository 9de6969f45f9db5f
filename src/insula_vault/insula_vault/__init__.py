"""The client crypto kit of Insula: what the server stores and cannot read."""

from insula_vault.account import Account
from insula_vault.aead import AES_256_GCM_SIV, XCHACHA20_POLY1305, Algorithm, XChaCha20Poly1305
from insula_vault.backups import Backup, Backups
from insula_vault.collection import Collection, Hit, Item
from insula_vault.dcpe import Dcpe
from insula_vault.definition import LEAKAGE, LEAKAGE_ACK, LeakageNotAcknowledged
from insula_vault.envelope import Header, open_sealed, read_header, seal
from insula_vault.errors import (
    AlgorithmMissing,
    CollectionChanged,
    Conflict,
    DerivationRefused,
    IntegrityError,
    NotFound,
    NumpyMissing,
    OutcomeUnknown,
    Refused,
    SecretRefused,
    Unreachable,
    VaultError,
    VectorRefused,
)
from insula_vault.head import Head
from insula_vault.keys import Derivation, RootKey, SplitKeys, split
from insula_vault.ledger import Change
from insula_vault.records import Binding, Entry, Record, open_record, seal_record
from insula_vault.stream import open_stream, seal_stream, sealed_size
from insula_vault.tree import Tree
from insula_vault.upkeep import change_secret, rekey, sweep
from insula_vault.vault import Delete, Put, Vault, login, register
from insula_vault.vectors import Collections
from insula_vault.wire import Session, Wire

__all__ = [
    "AES_256_GCM_SIV",
    "LEAKAGE",
    "LEAKAGE_ACK",
    "XCHACHA20_POLY1305",
    "Account",
    "Algorithm",
    "AlgorithmMissing",
    "Backup",
    "Backups",
    "Binding",
    "Change",
    "Collection",
    "CollectionChanged",
    "Collections",
    "Conflict",
    "Dcpe",
    "Delete",
    "Derivation",
    "DerivationRefused",
    "Entry",
    "Head",
    "Header",
    "Hit",
    "IntegrityError",
    "Item",
    "LeakageNotAcknowledged",
    "NotFound",
    "NumpyMissing",
    "OutcomeUnknown",
    "Put",
    "Record",
    "Refused",
    "RootKey",
    "SecretRefused",
    "Session",
    "SplitKeys",
    "Tree",
    "Unreachable",
    "Vault",
    "VaultError",
    "VectorRefused",
    "Wire",
    "XChaCha20Poly1305",
    "change_secret",
    "login",
    "open_record",
    "open_sealed",
    "open_stream",
    "read_header",
    "register",
    "rekey",
    "seal",
    "seal_record",
    "seal_stream",
    "sealed_size",
    "split",
    "sweep",
]
