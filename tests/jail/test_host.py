"""What is said about a host: found out by doing, and in plain words."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import insula_jail
from insula_jail import machine
from insula_jail.host import Circumstances, explain
from insula_jail.probe import host_report
from tests.jail.test_walls import DENY

NAMES = ["linux", "kernel", "architecture", "landlock", "seccomp", "namespaces", "processes"]
FREE = Circumstances(
    is_root=False,
    is_container=False,
    most_namespaces="100",
    for_users="1",
    restricted_by_apparmor="0",
)
REFUSED = "root: mount: Operation not permitted"
linux = pytest.mark.skipif(sys.platform != "linux", reason="the walls are made of Linux")


def report_after(before: str) -> dict[str, dict]:
    """The report of an interpreter that ran ``before`` first."""
    folder = str(Path(insula_jail.__file__).parent.parent)
    code = (
        f"import sys; sys.path.insert(0, {folder!r})\n{before}\n"
        "from insula_jail.probe import host_report\n"
        "import json; print(json.dumps(host_report()))"
    )
    command = [sys.executable, "-I", "-S", "-B", "-c", code]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    return {finding["name"]: finding for finding in json.loads(ended.stdout)}


@linux
class TestHostReport:
    def test_says_why_where_something_is_missing(self):
        found = host_report()

        assert [finding["name"] for finding in found] == NAMES
        assert all(finding["is_up"] == (finding["why"] == "") for finding in found)

    @pytest.mark.parametrize(
        ("call", "name"),
        [
            ("landlock_restrict_self", "landlock"),
            ("seccomp", "seccomp"),
            ("unshare", "namespaces"),
            ("mount", "namespaces"),
            ("pivot_root", "namespaces"),
        ],
    )
    def test_what_the_kernel_refuses_is_not_up(self, call, name):
        found = report_after(DENY.format(number=machine.this_machine().number(call)))

        assert found[name]["is_up"] is False
        assert "Function not implemented" in found[name]["why"] or name == "namespaces"

    def test_another_machine_is_named(self):
        strange = (
            "import os; real = os.uname(); os.uname = lambda: os.uname_result((*real[:4], 'pdp11'))"
        )

        found = report_after(strange)

        assert "pdp11" in found["architecture"]["why"]

    def test_another_system_is_named_and_imports_nothing_of_linux(self):
        found = report_after(
            "sys.platform = 'win32'; sys.modules['resource'] = None\n"
            "import platform; platform.system = lambda: 'Windows'"
        )

        assert found.keys() == {"linux"}
        assert "Windows" in found["linux"]["why"]
        assert "Docker" in found["linux"]["why"]


class TestExplain:
    def test_nothing_refused_needs_no_words(self):
        assert explain("", FREE) == ""

    @pytest.mark.parametrize(
        ("host", "words"),
        [
            (FREE._replace(restricted_by_apparmor="1"), "/etc/apparmor.d/insula"),
            (FREE._replace(most_namespaces="0"), "user.max_user_namespaces"),
            (FREE._replace(for_users="0"), "kernel.unprivileged_userns_clone"),
            (FREE._replace(is_container=True), "This container"),
            (FREE, REFUSED),
        ],
    )
    def test_the_cause_is_told_with_what_helps(self, host, words):
        assert words in explain(REFUSED, host)

    def test_what_holds_users_only_does_not_explain_a_refusal_to_root(self):
        host = FREE._replace(is_root=True, for_users="0", restricted_by_apparmor="1")

        assert REFUSED in explain(REFUSED, host)
