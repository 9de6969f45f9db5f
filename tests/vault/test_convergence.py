"""Three devices on a bad network: whatever is dropped, doubled or late, all end with the same."""

import httpx
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from insula_vault import Conflict, Vault
from tests.vault.devices import device, through
from tests.vault.store import Store

DEVICES = st.integers(0, 2)
RECORDS = st.integers(0, 3)
FAULTS = st.sampled_from(["none", "none", "request lost", "answer lost", "doubled", "late"])


class BadNetwork:
    """Between a device and the store. ``fault`` happens to the next change."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.fault = "none"
        self.late: list[httpx.Request] = []

    def handle(self, request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/batch"):
            return self.store.handle(request)
        fault, self.fault = self.fault, "none"
        if fault in ("request lost", "late"):
            self.late += [request] if fault == "late" else []
            raise httpx.ReadTimeout("lost")
        answer = self.store.handle(request)
        if fault == "doubled":
            answer = self.store.handle(request)
        if fault == "answer lost":
            raise httpx.ReadTimeout("lost")
        return answer


class Convergence(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.store = Store()
        self.networks = [BadNetwork(self.store) for _ in range(3)]
        self.vaults = [through(httpx.MockTransport(one.handle)) for one in self.networks]
        self.count = 0
        # What each record holds, as far as its writers were told.
        self.expected: dict[str, bytes] = {}

    def record_id(self, number: int) -> str:
        return f"00000000-0000-4000-8000-00000000000{number}"

    def etag_of(self, vault: Vault, record_id: str) -> str:
        return next((one.etag for one in vault.list() if one.id == record_id), "")

    @rule(place=DEVICES, number=RECORDS, fault=FAULTS, is_offline=st.booleans())
    def write(self, place: int, number: int, fault: str, is_offline: bool) -> None:
        """A device writes on what it has seen, which may be old."""
        vault, record_id = self.vaults[place], self.record_id(number)
        if not is_offline:
            vault.sync()
        self.count += 1
        data = str(self.count).encode()
        self.networks[place].fault = fault
        try:
            vault.put("notes", data, record_id=record_id, etag=self.etag_of(vault, record_id))
        except Conflict:
            return
        self.expected[record_id] = data

    @rule(place=DEVICES, number=RECORDS, fault=FAULTS)
    def delete(self, place: int, number: int, fault: str) -> None:
        vault, record_id = self.vaults[place], self.record_id(number)
        self.networks[place].fault = fault
        try:
            vault.delete(record_id, self.etag_of(vault, record_id) or "1-00000000")
        except Conflict:
            return
        self.expected.pop(record_id, None)

    @rule(place=DEVICES)
    def arrive(self, place: int) -> None:
        """What was sent long ago reaches the store now: somebody has been faster."""
        network = self.networks[place]
        for request in network.late:
            assert self.store.handle(request).status_code == 409
        network.late = []

    @rule(place=DEVICES)
    def restart(self, place: int) -> None:
        saved = self.vaults[place].save()
        transport = httpx.MockTransport(self.networks[place].handle)
        self.vaults[place] = through(transport, state=saved)

    @rule(place=DEVICES)
    def forget(self, place: int) -> None:
        """A horizon passes by: the device has to read the feed from its beginning."""
        self.store.horizon = self.store.disk.seq + 1
        self.vaults[place].sync()
        self.store.horizon = 0

    @invariant()
    def all_agree_once_they_have_synced(self) -> None:
        if not hasattr(self, "store"):
            return
        fresh = device(self.store)
        fresh.sync()
        shown = {entry.id: fresh.get(entry.id).data for entry in fresh.list()}
        assert shown == self.expected
        for vault in self.vaults[:1]:
            vault_again = device(self.store, state=vault.save())
            vault_again.sync()
            assert vault_again.list() == fresh.list()
            assert vault_again.head == fresh.head


TestConvergence = Convergence.TestCase
TestConvergence.settings = settings(
    max_examples=12,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
