"""The tree: one root for one set of records, whatever happened before."""

from hypothesis import given, settings
from hypothesis import strategies as st

from insula_vault import Tree
from insula_vault.tree import EMPTY_ROOT

ids = st.text("abcdef", min_size=1, max_size=3)
facts = st.text("xyz", max_size=2)
sets = st.dictionaries(ids, facts, max_size=30)


def tree_of(records: dict[str, str]) -> Tree:
    tree = Tree()
    for record_id, fact in records.items():
        tree = tree.put(record_id, fact)
    return tree


class TestRoot:
    def test_of_nothing_is_zeros(self):
        assert Tree().root == EMPTY_ROOT.hex()

    @settings(max_examples=50)
    @given(sets, st.randoms(use_true_random=False))
    def test_does_not_depend_on_the_order(self, records, random):
        items = list(records.items())
        random.shuffle(items)

        assert tree_of(dict(items)) == tree_of(records)

    @settings(max_examples=50)
    @given(sets, sets)
    def test_is_the_same_for_the_same_records_only(self, records, others):
        assert (tree_of(records).root == tree_of(others).root) == (records == others)

    def test_tells_facts_apart_that_run_together_to_the_same(self):
        assert Tree().put("a", "bc", "d").root != Tree().put("a", "b", "cd").root


class TestPut:
    @settings(max_examples=50)
    @given(st.lists(st.tuples(ids, st.none() | facts), max_size=40))
    def test_and_drop_leave_what_a_new_tree_would_have(self, steps):
        tree, records = Tree(), {}
        for record_id, fact in steps:
            if fact is None:
                tree = tree.drop(record_id)
                records.pop(record_id, None)
            else:
                tree = tree.put(record_id, fact)
                records[record_id] = fact

        assert tree == tree_of(records)
        assert tree.count == len(records)

    def test_leaves_the_tree_it_came_from_as_it_was(self):
        before = Tree().put("a", "x").put("b", "x")
        root = before.root

        before.put("a", "y").drop("b")

        assert before.root == root


class TestDrop:
    def test_of_what_is_not_there_changes_nothing(self):
        tree = Tree().put("a", "x")

        assert tree.drop("b") is tree
