"""A Merkle tree over the live records of a vault.

It is a trie over SHA-256 of the record ids. Sorted leaves would do for a root, but a new id moves
all that follow it: every write would hash the whole vault. Here a write hashes one path, about
log2(n) nodes, and the root depends on the records alone, not on the order they came in. A tree is
never changed: ``put`` and ``drop`` give another one that shares the rest, so that a change can be
tried and thrown away.
"""

import hashlib
from dataclasses import dataclass
from typing import TypeAlias

from insula_vault.encoding import pack

EMPTY_ROOT = bytes(32)


@dataclass(frozen=True, slots=True)
class _Leaf:
    key: bytes
    hash: bytes


@dataclass(frozen=True, slots=True)
class _Branch:
    left: "_Node"
    right: "_Node"
    hash: bytes


_Node: TypeAlias = _Leaf | _Branch | None


@dataclass(frozen=True, slots=True)
class Tree:
    """Live records, as one hash. ``count`` is how many there are."""

    _top: _Node = None
    count: int = 0

    @property
    def root(self) -> str:
        """64 hexadecimal digits."""
        return _hash(self._top).hex()

    def put(self, record_id: str, *facts: str) -> "Tree":
        """Add a record or replace it. ``facts`` are what the tree vouches for."""
        key = _key(record_id)
        leaf = _Leaf(key, hashlib.sha256(b"\0" + pack(key, *facts)).digest())
        is_new = _find(self._top, key) is None
        return Tree(_insert(self._top, leaf, 0), self.count + is_new)

    def drop(self, record_id: str) -> "Tree":
        """Remove a record; the same tree when it was not in it."""
        key = _key(record_id)
        if _find(self._top, key) is None:
            return self
        return Tree(_remove(self._top, key, 0), self.count - 1)


def _key(record_id: str) -> bytes:
    return hashlib.sha256(record_id.encode()).digest()


def _bit(key: bytes, depth: int) -> int:
    return key[depth >> 3] >> (7 - (depth & 7)) & 1


def _hash(node: _Node) -> bytes:
    return EMPTY_ROOT if node is None else node.hash


def _join(left: _Node, right: _Node) -> _Node:
    """A branch; a lone leaf moves up, so that a set of records has one shape only."""
    if left is None and not isinstance(right, _Branch):
        return right
    if right is None and not isinstance(left, _Branch):
        return left
    return _Branch(left, right, hashlib.sha256(b"\1" + _hash(left) + _hash(right)).digest())


def _find(node: _Node, key: bytes) -> _Leaf | None:
    depth = 0
    while isinstance(node, _Branch):
        node = node.right if _bit(key, depth) else node.left
        depth += 1
    return node if node is not None and node.key == key else None


def _insert(node: _Node, leaf: _Leaf, depth: int) -> _Node:
    if node is None or (isinstance(node, _Leaf) and node.key == leaf.key):
        return leaf
    if isinstance(node, _Leaf):
        node = _Branch(None, node, b"") if _bit(node.key, depth) else _Branch(node, None, b"")
    if _bit(leaf.key, depth):
        return _join(node.left, _insert(node.right, leaf, depth + 1))
    return _join(_insert(node.left, leaf, depth + 1), node.right)


def _remove(node: _Node, key: bytes, depth: int) -> _Node:
    if not isinstance(node, _Branch):
        return None
    if _bit(key, depth):
        return _join(node.left, _remove(node.right, key, depth + 1))
    return _join(_remove(node.left, key, depth + 1), node.right)
