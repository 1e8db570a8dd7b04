from __future__ import annotations

from dataclasses import replace

import pytest
from past import DEVICE, a_profile, a_small_plan, an_entry

from esen_lab.errors import UsageError
from esen_lab.history import Entry, EntryKind, Member, Past, changed, changes

BEFORE = an_entry(number=3)
NEW = {"a": BEFORE.members["a"], "c": Member(fingerprint="c", code="c")}


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (an_entry(), ()),
        (an_entry(members=NEW), ("+c", "-b")),
        (an_entry(code="c2"), ("code of a",)),
        (an_entry(members={**BEFORE.members, "a": Member(fingerprint="trained", code="c1")}), ()),
        (an_entry(device={**DEVICE, "units": 8}), ("device",)),
        (an_entry(versions={"esen_lab": "0.1.0", "torch": "2.14.0"}), ("torch 2.14.0",)),
        (an_entry(versions={**BEFORE.versions, "openvino": "2026.1"}), ()),
        (an_entry(batch="float32[8, 8]"), ("batch",)),
        (an_entry(combine="stack"), ("combine rule",)),
        (an_entry(plan=a_small_plan(2)), ("plan",)),
        (an_entry(plan=None), ()),
    ],
    ids=["nothing", "members", "code", "weights", "device", "version", "engine", "batch", "combine", "plan", "no plan"],
)
def test_what_changed_is_said_in_a_few_words(after: Entry, words: tuple[str, ...]) -> None:
    assert changed(BEFORE, after) == words


def test_side_by_side_what_differs_comes_first() -> None:
    found = changes(BEFORE, an_entry(0.002, number=7, load=0.25, plan=a_small_plan(2)))
    assert [(row.what, row.before, row.after) for row in found.rows if row.differs] == [
        ("JCT median", "4.00 ms (3.80 ms to 4.20 ms)", "2.00 ms (1.90 ms to 2.10 ms)"),
        ("lanes", "1: a | 2: b", "2: a | 2: b"),
        ("load by other programs", "", "25.0 %"),
    ]
    assert [row.differs for row in found.rows[:4]] == [True, True, True, False]
    assert found.verdict == "7 is 2.0 times faster than 3."
    assert "lanes" in str(found)


def test_weights_that_differ_are_seen_side_by_side_and_are_no_other_code() -> None:
    trained = {**BEFORE.members, "a": Member(fingerprint="trained-more-than", code="c1")}
    rows = changes(BEFORE, an_entry(members=trained)).rows
    (row,) = (row for row in rows if row.differs and row.what.startswith("sub-model"))
    assert (row.what, row.after) == ("sub-model a", "weights trained-more")


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (an_entry(0.0041, number=7), "7 and 3 cannot be told apart"),
        (an_entry(0.002, number=7, low_s=None, high_s=None), "there were too few runs"),
        (an_entry(0.002, number=7, batch="float32[1, 8]"), "another batch or device"),
        (an_entry(0.008, number=7), "7 is 2.0 times slower than 3."),
    ],
)
def test_the_verdict_says_how_sure_it_is(after: Entry, said: str) -> None:
    assert said in changes(BEFORE, after).verdict


def test_where_one_was_not_run_there_is_no_verdict() -> None:
    assert changes(BEFORE, a_profile()).verdict == ""


def test_two_profiles_are_compared_point_by_point() -> None:
    found = changes(a_profile(number=1), a_profile(0.003, number=2))
    assert [(row.what, row.before, row.after) for row in found.rows if row.differs] == [
        ("a at 1", "2.00 ms", "3.00 ms"),
        ("a at 2", "1.00 ms", "1.50 ms"),
    ]


def test_the_fastest_other_is_one_that_answers_right() -> None:
    other = BEFORE.best_other
    assert other is not None
    assert other.name == "sequential"
    assert BEFORE.what == "2.00× as fast as sequential; 1: a | 2: b"


def past(*entries: Entry) -> Past:
    return Past(project="p", entries=tuple(replace(entry, number=n) for n, entry in enumerate(entries, 1)))


def test_marks_stand_where_something_changed_between_two_measurements() -> None:
    found = past(
        an_entry(),
        a_profile(),
        an_entry(None, code="c2", kind=EntryKind.PLAN),
        an_entry(code="c2"),
        an_entry(code="c2"),
    )
    assert [entry.number for entry in found.measured] == [1, 4, 5]
    assert found.marks == ((1, ("code of a",)),)
    assert found.changed == {3: ("code of a",), 4: (), 5: ()}


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([], ""),
        ([a_profile()], ""),
        ([an_entry(0.004), an_entry(0.003)], "The last measured JCT, 3.00 ms, is the best"),
        ([an_entry(0.002), an_entry(0.003)], "The best of these sub-models, batch and device is number 1: 2.00 ms"),
        (
            [an_entry(0.003), an_entry(0.0031)],
            "The last measured JCT is as good as the best of these sub-models, batch and device",
        ),
        ([an_entry(0.002, batch="other"), an_entry(0.003)], "The last measured JCT, 3.00 ms, is the best"),
    ],
)
def test_the_past_says_whether_it_gets_better(entries: list[Entry], said: str) -> None:
    assert past(*entries).verdict.startswith(said)
    assert bool(past(*entries).verdict) == bool(said)


def test_the_best_is_that_of_all_entries_however_few_are_listed() -> None:
    whole = past(an_entry(0.004), an_entry(0.001), an_entry(0.003))
    listed = Past(project="p", entries=whole.entries[2:], unlisted=whole.entries[:2])
    assert listed.best == whole.best
    assert listed.verdict == whole.verdict
    assert "is number 2: 1.00 ms" in listed.verdict
    assert listed.measured == whole.entries[2:]
    assert str(listed).startswith("History of p: 1 of 3 entries\n")
    assert str(whole).startswith("History of p: 3 entries\n")


def test_the_numbers_that_there_are_are_told_as_ranges_whether_listed_or_not() -> None:
    entries = [an_entry(number=number) for number in (1, 2, 3, 5, 6, 8)]
    with pytest.raises(UsageError, match=r"Numbers of this project: 1 to 3, 5, 6, 8\."):
        Past(project="p", entries=tuple(entries[-1:]), unlisted=tuple(entries[:-1])).entry(9)
    many = [an_entry(number=2 * number) for number in range(1, 31)]
    with pytest.raises(UsageError, match=r"Numbers of this project: \.\.\., 22, .*, 60\."):
        Past(project="p", entries=tuple(many)).entry(9)


def test_those_of_a_simulated_device_are_named() -> None:
    real = an_entry(device={**DEVICE, "simulated": False})
    assert past(real, real).simulated == ""
    assert past(real, an_entry()).simulated == "Simulated, and not measured: number 2."
    assert past(an_entry(), an_entry(), an_entry(), real).simulated.endswith(": numbers 1 to 3.")
    assert "Simulated, and not measured" in str(past(an_entry()))


def test_an_unknown_number_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match="Numbers of this project: 1, 2"):
        past(an_entry(), an_entry()).entry(9)
    with pytest.raises(UsageError, match="none yet"):
        past().entry(1)


def test_the_past_is_a_table_for_terminals_and_for_pandas() -> None:
    found = past(an_entry(), a_profile())
    assert "2.00× as fast as sequential" in str(found)
    frame = found.to_frame()
    assert next(iter(frame["jct_s"])) == 0.004
    assert list(frame["searcher"]) == ["exact", ""]
    assert found.to_dict()["entries"][0]["plan"]["units"] == 4


def test_a_smaller_ensemble_is_not_the_best_of_a_larger_one() -> None:
    alone = {"a": BEFORE.members["a"]}
    found = Past(project="p", entries=(an_entry(0.001, number=1, members=alone), an_entry(0.004, number=2)))
    assert found.best is found.last
    assert changes(*found.entries).verdict.endswith("they are of other sub-models, so this says nothing of the plan.")
