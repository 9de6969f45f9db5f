"""Three devices that edit while they are apart, over a network that loses, doubles and delays.

A state machine: whatever they did, once everything has come through all show what the server has.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from uuid import UUID, uuid4

import msgspec
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from app.kernel.errors import NotFound, PreconditionFailed
from app.modules.auth.models import UserRow
from app.modules.storage.domain.changes import Change, ChangePage
from app.modules.storage.domain.conditions import Condition
from app.modules.storage.domain.records import Written
from tests.modules.storage.desks import Shelf, audit

T = TypeVar("T")

EXAMPLES = 10
STEPS = 40
PAGE = 3
# Within so many rounds of pushing and pulling everybody agrees, or never.
ROUNDS = 10
RECORDS = frozenset({"record"})
DEVICES = 3
NAMES = 3

devices = st.integers(0, DEVICES - 1)
names = st.integers(0, NAMES - 1)
bodies = st.binary(max_size=3)
places = st.integers(1, 6)
actions = st.sampled_from(
    ["write", "write", "write", "delete", "delete", "pull", "pull", "push", "restore", "arrive"]
)
# What becomes of a request: it comes through, or is lost, or its answer is, or it is sent twice,
# or it is on its way for long, and nobody waits for the answer.
fates = st.sampled_from(["through", "through", "lost", "unanswered", "twice", "late"])


class Known(msgspec.Struct, frozen=True):
    """What a device knows of a record of the server's; no body where it is deleted."""

    seq: int
    etag: str
    body: bytes | None


class Device:
    """A small sync client: what it has read, and what it has edited since."""

    def __init__(self) -> None:
        self.known: dict[UUID, Known] = {}
        self.edits: dict[UUID, bytes | None] = {}
        self.cursor: str | None = None

    @property
    def shown(self) -> dict[UUID, bytes]:
        """What its user sees."""
        all_of_it = {record_id: known.body for record_id, known in self.known.items()} | self.edits
        return {record_id: body for record_id, body in all_of_it.items() if body is not None}

    def edit(self, record_id: UUID, body: bytes | None) -> None:
        if body is None and record_id not in self.known:
            self.edits.pop(record_id, None)
        else:
            self.edits[record_id] = body

    def learn(self, record_id: UUID, known: Known) -> None:
        """Answers come in any order: the newest one counts."""
        before = self.known.get(record_id)
        if before is None or before.seq < known.seq:
            self.known[record_id] = known

    def take(self, start: str | None, page: ChangePage, contents: dict[UUID, bytes]) -> None:
        """A page counts where the device still is at its start."""
        for change in page.items:
            record_id = UUID(change.id)
            body = None if change.is_deleted else contents[record_id]
            self.learn(record_id, Known(change.seq, change.etag, body))
        if start == self.cursor:
            self.cursor = page.cursor

    def condition(self, record_id: UUID) -> Condition:
        known = self.known.get(record_id)
        return Condition(is_new=True) if known is None else Condition(etag=known.etag)

    def settle(self, record_id: UUID, body: bytes | None, written: Written) -> None:
        """An answer to a request of its own."""
        self.learn(record_id, Known(written.seq, written.etag, body))
        if record_id in self.edits and self.edits[record_id] == body:
            del self.edits[record_id]

    def give_way(self, record_id: UUID) -> None:
        """After a conflict: what somebody else has written is not deleted unseen."""
        if self.edits.get(record_id, b"") is None:
            del self.edits[record_id]


class Server:
    """The real one, for one user, called from the machine's thread."""

    def __init__(self, shelf: Shelf, loop: asyncio.AbstractEventLoop) -> None:
        self.shelf = shelf
        self.user_id = uuid4()
        self._loop = loop
        self.call(self._register())

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def change(self, record_id: UUID, body: bytes | None, wanted: Condition) -> Written:
        if body is None:
            return self.call(self.shelf.delete(record_id, wanted.etag or "*", user_id=self.user_id))
        return self.call(self.shelf.put(record_id, body, wanted, user_id=self.user_id))

    def restore(self, record_id: UUID, rev: int, etag: str) -> Written:
        return self.call(self.shelf.restore(record_id, rev, etag, user_id=self.user_id))

    def body(self, record_id: UUID) -> bytes:
        return self.call(self.shelf.body(record_id, user_id=self.user_id))

    def page(self, cursor: str | None) -> tuple[ChangePage, dict[UUID, bytes]]:
        """A page, and the bodies that its records have by then, if they still are those."""
        changes = self.shelf.storage.changes
        page = self.call(changes.page(self.user_id, cursor, PAGE, RECORDS))
        live = [UUID(change.id) for change in page.items if not change.is_deleted]
        return page, {record_id: self.body(record_id) for record_id in live}

    def everything(self) -> dict[UUID, bytes]:
        found: list[Change] = []
        cursor, has_more = None, True
        while has_more:
            page, _ = self.page(cursor)
            found += page.items
            cursor, has_more = page.cursor, page.has_more
        live = [UUID(change.id) for change in found if not change.is_deleted]
        return {record_id: self.body(record_id) for record_id in live}

    def audit(self) -> None:
        self.call(audit(self.shelf.db, self.user_id))

    async def _register(self) -> None:
        async with self.shelf.db.begin() as session:
            user = UserRow(
                id=self.user_id,
                email=f"{self.user_id}@example.org",
                role="member",
                credential_kind="password",
                credential_hash=None,
                kdf_salt="salt",
            )
            session.add(user)


class Machine(RuleBasedStateMachine):
    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server
        self.devices = [Device() for _ in range(DEVICES)]
        self.ids = [uuid4() for _ in range(NAMES)]
        self.late: list[Callable[[], object]] = []
        self.seqs: dict[int, tuple[UUID, str]] = {}
        self.newest: dict[UUID, Known] = {}

    # One rule with many actions: of several rules each run leaves some out, and does little.
    @rule(device=devices, action=actions, name=names, body=bodies, fate=fates, place=places)
    def acts(self, device: int, action: str, name: int, body: bytes, fate: str, place: int) -> None:
        actor, record_id = self.devices[device], self.ids[name]
        if action in {"write", "delete"}:
            # What is lost at once is an edit while there is no network.
            actor.edit(record_id, body if action == "write" else None)
            self._push(actor, record_id, fate)
        elif action == "push":
            for edited in list(actor.edits):
                self._push(actor, edited, fate)
        elif action == "pull":
            self._pull(actor, fate)
        elif action == "restore":
            self._restore(actor, record_id, place)
        elif self.late:
            # Something that was on its way for long comes through, in any order.
            self.late.pop(place % len(self.late))()

    @invariant()
    def the_sums_are_exact(self) -> None:
        if self.seqs:
            self.server.audit()

    def teardown(self) -> None:
        while self.late:
            self.late.pop()()
        for _ in range(ROUNDS):
            for device in self.devices:
                self._meet(device)
            if not any(device.edits for device in self.devices):
                break
        for device in self.devices:
            self._meet(device)
        there = self.server.everything()
        for device in self.devices:
            assert device.edits == {}
            assert device.shown == there
        newest = {record_id: known.body for record_id, known in self.newest.items()}
        assert there == {one: body for one, body in newest.items() if body is not None}

    def _meet(self, device: Device) -> None:
        """Pull to the end, and push everything, once."""
        while self._pull(device, "through"):
            pass
        for record_id in list(device.edits):
            self._push(device, record_id, "through")

    def _restore(self, device: Device, record_id: UUID, rev: int) -> None:
        known = device.known.get(record_id)
        if known is None:
            return
        try:
            written = self.server.restore(record_id, rev, known.etag)
        except (NotFound, PreconditionFailed):
            return
        self._note(written, Condition(etag=known.etag), self.server.body(record_id))

    def _push(self, device: Device, record_id: UUID, fate: str) -> None:
        if record_id not in device.edits:
            return
        body, wanted = device.edits[record_id], device.condition(record_id)
        if fate == "late":
            self.late.append(lambda: self._send(record_id, body, wanted))
        if fate in {"late", "lost"}:
            return
        answer = self._send(record_id, body, wanted)
        if fate == "twice":
            # Nobody came between: it is answered as before.
            again = self._send(record_id, body, wanted)
            assert (answer and answer.seq) == (again and again.seq)
        if fate == "unanswered":
            return
        if answer is None:
            device.give_way(record_id)
        else:
            device.settle(record_id, body, answer)

    def _send(self, record_id: UUID, body: bytes | None, wanted: Condition) -> Written | None:
        """What the server answers; nothing where it refuses."""
        try:
            written = self.server.change(record_id, body, wanted)
        except (NotFound, PreconditionFailed):
            return None
        self._note(written, wanted, body)
        return written

    def _pull(self, device: Device, fate: str) -> bool:
        """Ask for one page; whether there is more."""
        start = device.cursor
        if fate == "lost":
            return False
        page, contents = self.server.page(start)

        def take() -> None:
            device.take(start, page, contents)

        if fate == "late":
            self.late.append(take)
            return False
        if fate != "unanswered":
            take()
        if fate == "twice":
            take()
        return page.has_more

    def _note(self, written: Written, wanted: Condition, body: bytes | None) -> None:
        """A number is of one revision for ever, and a revision follows the one it was made from."""
        made = (written.record_id, written.etag)
        if written.seq in self.seqs:
            assert self.seqs[written.seq] == made
            return
        assert written.seq == len(self.seqs) + 1
        self.seqs[written.seq] = made
        before = self.newest.get(written.record_id)
        if wanted.is_new:
            assert before is None or before.body is None
        else:
            assert before is not None
            assert before.etag == wanted.etag
        self.newest[written.record_id] = Known(written.seq, written.etag, body)


class TestConvergence:
    async def test_of_three_devices_that_were_apart(self, shelf):
        """In a thread: a state machine waits for each of its steps."""
        loop = asyncio.get_running_loop()
        # A tier that keeps few revisions, so that old ones go.
        shelf.tiers.tier = "pro"
        chosen = settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=True,
            database=None,
            report_multiple_bugs=False,
            # What fails here is printed step by step; making it shorter takes minutes.
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )

        def run() -> None:
            run_state_machine_as_test(lambda: Machine(Server(shelf, loop)), settings=chosen)

        await asyncio.to_thread(run)
