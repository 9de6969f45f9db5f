"""What a project may say, which packages it may name, and what each tier may use."""

import pytest

from app.modules.sandbox.domain.limits import Limits
from app.modules.sandbox.domain.packages import (
    PackageInvalid,
    canonical,
    package_hash,
    read_requirement,
)
from app.modules.sandbox.domain.projects import (
    Project,
    ProjectInvalid,
    built_in,
    for_tier,
    parse_project,
    reference_of,
)

FULL = {
    "name": "tables",
    "description": "Tables and plots",
    "packages": ["Pandas >= 2.2, < 3", "matplotlib"],
    "preload": ["pandas", "matplotlib.pyplot", "pandas"],
    "limits": {"wall_s": 120, "memory_mb": 1024},
    "secrets": {"TOKEN": "abc", "KEY": "${env:OUR_KEY}"},
    "llm": "gateway",
    "model": "small",
    "replicas": 3,
}


class TestParse:
    def test_reads_every_field(self):
        project = parse_project("tables", FULL)

        assert project == Project(
            name="tables",
            description="Tables and plots",
            packages=("matplotlib", "pandas<3,>=2.2"),
            preload=("pandas", "matplotlib.pyplot"),
            limits=Limits(wall_s=120, memory_mb=1024),
            secrets={"TOKEN": "abc", "KEY": "${env:OUR_KEY}"},
            llm="gateway",
            model="small",
            replicas=3,
        )

    @pytest.mark.parametrize("document", [None, {}, {"packages": None, "limits": None}])
    def test_needs_nothing_but_a_name(self, document):
        assert parse_project("empty", document) == Project(name="empty")

    def test_reads_the_limits_of_an_older_file(self):
        document = {"limits": {"timeout": 30, "memory_mb": 512, "max_output_mb": 10}}

        assert parse_project("old", document).limits == Limits(wall_s=30, output_mb=10)

    @pytest.mark.parametrize("allowed", [[], None, ""])
    def test_reads_an_older_file_that_allows_no_network(self, allowed):
        assert parse_project("old", {"network_allowlist": allowed}) == Project(name="old")

    def test_refuses_a_file_that_allows_a_network(self):
        with pytest.raises(ProjectInvalid, match=r"network_allowlist: .* scripts have no network"):
            parse_project("old", {"network_allowlist": ["example.test"]})

    @pytest.mark.parametrize("name", ["", "A", "-a", "a b", "a/b", "..", "a" * 64, "ä", "a\n"])
    def test_refuses_a_name(self, name):
        with pytest.raises(ProjectInvalid, match=r"^name: "):
            parse_project(name, {})

    def test_refuses_a_name_that_is_not_the_files(self):
        with pytest.raises(ProjectInvalid, match="name: is not 'other'"):
            parse_project("other", FULL)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("description", 1),
            ("description", "x" * 1001),
            ("packages", "pandas"),
            ("packages", {"pandas": 1}),
            ("preload", "os"),
            ("preload", ["os; import sys"]),
            ("preload", ["a" * 201]),
            ("preload", [1]),
            ("preload", ["os"] * 65),
            ("limits", [1]),
            ("llm", "server"),
            ("llm", ["caller"]),
            ("model", "x" * 201),
            ("replicas", -1),
            ("replicas", 65),
            ("replicas", "2"),
            ("replicas", True),
            ("replicas", 1.5),
            ("secrets", ["KEY"]),
            ("secrets", {"1KEY": "x"}),
            ("secrets", {"A-B": "x"}),
            ("secrets", {"A" * 129: "x"}),
            ("secrets", {f"A{n}": "x" for n in range(65)}),
        ],
    )
    def test_names_the_field_that_it_refuses(self, field, value):
        with pytest.raises(ProjectInvalid, match=f"^{field}: ") as refused:
            parse_project("tables", {field: value})

        assert refused.value.extra["param"] == field

    @pytest.mark.parametrize("value", [1234, None, "", "x" * 8193, "${vault:key}", "${env:a-b}"])
    def test_names_the_secret_that_it_refuses_and_not_its_value(self, value):
        with pytest.raises(ProjectInvalid, match=r"^secrets\.PIN: ") as refused:
            parse_project("tables", {"secrets": {"PIN": value}})

        assert "1234" not in str(refused.value)

    @pytest.mark.parametrize(
        ("limits", "field"),
        [
            ({"wall_s": 0}, "limits.wall_s"),
            ({"wall_s": 601}, "limits.wall_s"),
            ({"timeout": 601}, "limits.wall_s"),
            ({"memory_mb": "1"}, "limits.memory_mb"),
            ({"memory_mb": float("nan")}, "limits.memory_mb"),
        ],
    )
    def test_names_the_limit_that_it_refuses(self, limits, field):
        with pytest.raises(ProjectInvalid, match=f"^{field}: Expected"):
            parse_project("tables", {"limits": limits})

    @pytest.mark.parametrize(
        ("document", "text"),
        [
            ({"network": "host"}, "network: is no field"),
            ({"limits": {"cpus": 1}}, "cpus"),
            ({"limits": {"timeout": 1, "wall_s": 1}}, "limits.timeout: is the old name of wall_s"),
            ({1: "x"}, "'1', which is no text"),
            ({"secrets": {False: "x"}}, "'False', which is no text"),
            (["tables"], "is not a mapping"),
        ],
    )
    def test_refuses_what_no_project_has(self, document, text):
        with pytest.raises(ProjectInvalid) as refused:
            parse_project("tables", document)

        assert text in str(refused.value)


class TestProject:
    def test_shows_no_secret(self):
        assert "abc" not in repr(parse_project("tables", FULL))

    def test_the_built_in_one_has_the_standard_library_and_the_defaults(self):
        assert built_in().project == Project(
            name="default", description="Python and its standard library."
        )

    @pytest.mark.parametrize(
        ("value", "variable"),
        [("${env:OUR_KEY}", "OUR_KEY"), ("abc", None), ("$env:A", None), ("x${env:A}", None)],
    )
    def test_a_secret_may_stand_for_a_variable(self, value, variable):
        assert reference_of(value) == variable


class TestForTier:
    @pytest.mark.parametrize("tier", ["free", "pro", "power", "team", None, "unheard-of"])
    def test_leaves_the_defaults_alone(self, tier):
        assert for_tier(Limits(), tier) == Limits()

    def test_gives_the_owner_what_the_project_says(self):
        limits = Limits(wall_s=600, memory_mb=4096)

        assert for_tier(limits, None) == limits

    def test_lowers_to_what_the_tier_may_use(self):
        walls = [for_tier(Limits(wall_s=600), tier).wall_s for tier in ("free", "pro", "power")]

        assert walls == [60, 180, 360]

    def test_raises_nothing(self):
        assert for_tier(Limits(wall_s=5), "team").wall_s == 5

    def test_treats_an_unknown_tier_as_the_lowest(self):
        assert for_tier(Limits(wall_s=600), "unheard-of").wall_s == 60


class TestCanonical:
    @pytest.mark.parametrize(
        ("given", "written"),
        [
            ("requests", "requests"),
            (" Requests ", "requests"),
            ("ruamel.yaml", "ruamel-yaml"),
            ("zope__interface", "zope-interface"),
            ("pandas==2.2.*", "pandas==2.2.*"),
            ("pandas (>=2)", "pandas>=2"),
            ("pandas >= 2 , < 3", "pandas<3,>=2"),
            ("a~=1.0.post1", "a~=1.0.post1"),
            ("a==1!2.0+local.1", "a==1!2.0+local.1"),
            ("uvicorn[Standard, http_tools]>=1", "uvicorn[http-tools,standard]>=1"),
        ],
    )
    def test_writes_a_requirement_in_one_way(self, given, written):
        assert canonical([given]) == (written,)

    def test_sorts_and_drops_what_is_said_twice(self):
        assert canonical(["b", "a>=1", "B", "a >=1"]) == ("a>=1", "b")

    def test_keeps_what_it_has_written(self):
        once = canonical(["Uvicorn[standard] >=1,<2", "pandas"])

        assert canonical(once) == once

    def test_refuses_two_lines_for_one_package(self):
        with pytest.raises(PackageInvalid, match="'a' is named twice"):
            canonical(["a>1", "A<3"])

    def test_takes_so_many_and_no_more(self):
        assert len(canonical([f"p{n}" for n in range(64)])) == 64
        with pytest.raises(PackageInvalid, match="64 are the limit"):
            canonical([f"p{n}" for n in range(65)])

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("--index-url=https://evil.test", "option"),
            ("-r requirements.txt", "option"),
            ("-e .", "option"),
            ("x --hash=sha256:0", "option"),
            ("x --index-url https://evil.test/", "address"),
            ("x; rm -rf /", "marker"),
            ("x; python_version < '3'", "marker"),
            ("git+file:///srv/x", "address"),
            ("git+https://evil.test/x.git", "address"),
            ("x @ https://evil.test/x.whl", "address"),
            ("x@file:///etc", "address"),
            ("../x.whl", "path"),
            ("./x", "path"),
            ("/tmp/x", "path"),
            ("~/x", "path"),
            ("a\\b", "path"),
            ("x.whl", "file"),
            ("x-1.0.tar.gz", "file"),
            ("x\n--index-url=https://evil.test", "character"),
            ("x\r", "character"),
            ("x\0", "character"),
            ("\u0445", "character"),
            ("${HOME}", "character"),
            ("$(id)", "character"),
            ("`id`", "character"),
            ("x|y", "character"),
            ("x & y", "character"),
            ("x # y", "character"),
            ("'x'", "character"),
            ("x y", "version"),
            ("x -e y", "version"),
            ("x=1", "version"),
            ("x==", "version"),
            ("x>=1,", "version"),
            ("x>=1 <2", "version"),
            ("x==1 (2)", "versions"),
            ("x[", "version"),
            ("x[]", "extras"),
            ("x[a b]", "extras"),
            ("_x", "name"),
            ("x_", "version"),
            (" ", "name"),
            ("", "1 to 200"),
            ("x" * 201, "1 to 200"),
            (1, "texts"),
            (None, "texts"),
            (["x"], "texts"),
        ],
    )
    def test_refuses_and_says_why(self, text, why):
        with pytest.raises(PackageInvalid, match=why) as refused:
            canonical([text])

        assert refused.value.extra["param"] == "packages"

    def test_does_not_think_long_about_a_hostile_text(self):
        for text in ("a" + "." * 198 + "!", "a[" + "a," * 98, "a" + "==1" * 66):
            with pytest.raises(PackageInvalid):
                read_requirement(text)


class TestHash:
    def test_is_one_for_equal_sets(self):
        assert package_hash(["b", "A>=1"], "cp311") == package_hash(["a >= 1", "b"], "cp311")

    def test_is_another_for_another_set_or_python(self):
        hashes = {package_hash(["a"], "cp311"), package_hash(["b"], "cp311")}

        assert len(hashes | {package_hash(["a"], "cp312"), package_hash([], "cp311")}) == 4

    def test_is_the_name_of_a_folder(self):
        assert package_hash(["a"], "cp311").isalnum()
