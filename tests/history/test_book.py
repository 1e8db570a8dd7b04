from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import warnings
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from past import a_profile, an_entry

from esen_lab.history import Book, Slot, book
from esen_lab.planner.plan import Plan

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "history.sqlite3"


def put(kept: Book, count: int = 1, project: str = "p", **known: object) -> None:
    for _ in range(count):
        kept.put(Slot(project), an_entry(**known))


def test_what_was_put_is_there_for_others_with_its_number_and_its_plan(path: Path) -> None:
    entries = (an_entry(), a_profile())
    for entry in entries:
        Book(path).put(Slot("p"), entry)
    assert Book(path).entries("p") == tuple(replace(entry, number=n) for n, entry in enumerate(entries, 1))
    assert isinstance(Book(path).entries("p")[0].plan, Plan)


def test_projects_count_for_themselves(path: Path) -> None:
    kept = Book(path)
    put(kept, 2, "p")
    put(kept, 1, "q")
    assert [entry.number for entry in kept.entries("p")] == [1, 2]
    assert [entry.number for entry in kept.entries("q")] == [1]
    assert kept.projects() == {"p": 2, "q": 1}
    assert kept.entries("r") == ()


def test_the_last_ones_are_given_oldest_first(path: Path) -> None:
    kept = Book(path)
    put(kept, 5)
    assert [entry.number for entry in kept.entries("p", last=2)] == [4, 5]


def test_an_entry_takes_the_place_of_the_one_before_in_its_slot(path: Path) -> None:
    kept, slot = Book(path), Slot("p")
    kept.put(slot, an_entry(runs=16))
    put(kept)
    kept.put(slot, an_entry(runs=64))
    assert [(entry.number, entry.runs) for entry in Book(path).entries("p")] == [(1, 64), (2, 20)]


def test_an_entry_that_was_forgotten_comes_back_when_there_is_more_of_it(path: Path) -> None:
    kept, slot = Book(path), Slot("p")
    kept.put(slot, an_entry(runs=16))
    assert kept.forget("p") == 1
    kept.put(slot, an_entry(runs=64))
    assert [entry.runs for entry in kept.entries("p")] == [64]


def test_a_number_that_was_forgotten_and_is_anothers_by_now_is_left_to_it(path: Path) -> None:
    kept, slot = Book(path), Slot("p")
    kept.put(slot, an_entry(runs=16))
    assert kept.forget("p", [1]) == 1
    put(kept, at="2026-11-02T12:00:00+00:00", runs=5)
    kept.put(slot, an_entry(runs=64, at="2026-11-03T12:00:00+00:00"))
    assert [(entry.number, entry.runs) for entry in kept.entries("p")] == [(1, 5), (2, 64)]


def test_some_are_forgotten_or_all_of_one_project(path: Path) -> None:
    kept = Book(path)
    put(kept, 4)
    put(kept, 1, "q")
    assert kept.forget("p", [2, 3, 3, 99]) == 2
    assert [entry.number for entry in kept.entries("p")] == [1, 4]
    assert kept.forget("p") == 2
    assert kept.projects() == {"q": 1}


def test_nothing_is_made_before_something_is_put(path: Path) -> None:
    kept = Book(path)
    assert kept.entries("p") == ()
    assert kept.projects() == {}
    assert kept.forget("p") == 0
    kept.close()
    assert not path.parent.exists()
    assert kept.notes == ()


# --- bounds ---------------------------------------------------------------------------------------------------------


def test_so_many_of_a_project_are_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book, "MOST_ENTRIES", 5)
    kept = Book(path)
    put(kept, 2, "q")
    put(kept, 8)
    assert [entry.number for entry in kept.entries("p", last=100)] == [4, 5, 6, 7, 8]
    assert len(kept.entries("q")) == 2


def test_old_ones_go_but_for_the_last_ones_of_their_project(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book, "LAST_ENTRIES", 3)
    old = (datetime.now(UTC) - timedelta(days=book.MOST_DAYS + 1)).isoformat(timespec="seconds")
    young = (datetime.now(UTC) - timedelta(days=book.MOST_DAYS - 1)).isoformat(timespec="seconds")
    kept = Book(path)
    put(kept, 2, at=old)
    put(kept, 1, at=young)
    put(kept, 3, at=old)
    assert [entry.number for entry in kept.entries("p")] == [3, 4, 5, 6]


def test_a_file_that_grows_too_large_loses_the_oldest_of_all_projects(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book, "MOST_BYTES", 100_000)
    kept = Book(path)
    notes = ("x" * 5_000,)
    put(kept, 1, "q", notes=notes, at="2026-01-01")
    for day in range(60):
        put(kept, 1, notes=notes, at=f"2026-02-{day:02d}")
    assert path.stat().st_size < 200_000
    assert kept.projects().keys() == {"p"}
    assert kept.entries("p")[-1].at == "2026-02-59"
    assert kept.notes == ()


def test_latencies_are_left_out_of_an_entry_that_is_too_long(path: Path) -> None:
    kept = Book(path)
    many = {f"m{n}": dict.fromkeys(range(1, 200), 0.001) for n in range(200)}
    kept.put(Slot("p"), replace(a_profile(), latency_s=many))
    (found,) = kept.entries("p")
    assert found.latency_s == {}
    assert found.kind == "profile"


@pytest.mark.parametrize(
    "known", [{"jct_s": float("nan")}, {"jct_s": -1.0}, {"notes": ("\ud800",)}, {"notes": ("x" * 9_000,) * 50}], ids=str
)
def test_an_entry_that_no_file_holds_is_left_out_with_a_note(path: Path, known: dict[str, object]) -> None:
    kept = Book(path)
    kept.put(Slot("p"), replace(an_entry(), **known))
    put(kept)
    assert len(kept.entries("p")) == 1
    assert any("is not in the history" in note for note in kept.notes)


@pytest.mark.parametrize("name", ["\ud800", "x" * 100_000, "", "a'; DROP TABLE entries; --", "\N{SNOWMAN}"])
def test_a_project_may_have_any_name(path: Path, name: str) -> None:
    kept = Book(path)
    put(kept, project=name)
    assert len(kept.entries(name)) == 1
    assert len(Book(path).entries(name)) == 1


# --- a file that is not as it was left ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        "data = '{}'",
        "data = 'null'",
        "data = 'nonsense'",
        "data = x'00'",
        "data = CAST(x'ff' AS TEXT)",
        "data = replace(data, '\"comparison\"', '\"other\"')",
        "data = replace(data, '\"jct_s\":0.004', '\"jct_s\":-1')",
        "data = replace(data, '\"units\":1', '\"units\":1e99')",
        "data = replace(data, '{\"kind', '{\"number\":7,\"kind')",
        f"data = '{'[' * 50_000}'",
        "number = 'x'",
        "number = -4",
        "number = 9223372036854775807",
    ],
    ids=lambda change: change[:40],
)
def test_a_row_that_cannot_be_is_as_if_it_were_not_there(path: Path, change: str) -> None:
    put(Book(path), 2)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"UPDATE entries SET {change} WHERE number = 1")
        connection.commit()
    kept = Book(path)
    assert [entry.number for entry in kept.entries("p")] == [2]
    put(kept)
    assert [entry.number for entry in Book(path).entries("p")] == [2, 3]
    assert kept.notes == ()


@pytest.mark.parametrize(
    "script",
    [
        "DROP TABLE entries",
        "CREATE TRIGGER t AFTER INSERT ON entries BEGIN DELETE FROM entries; END",
        "CREATE TABLE other (a)",
        "ALTER TABLE entries ADD COLUMN more TEXT",
        "PRAGMA user_version = 0",
    ],
)
def test_a_file_that_is_built_otherwise_is_moved_aside(path: Path, script: str) -> None:
    put(Book(path), 2)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
        connection.commit()
    kept = Book(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        put(kept)
    assert len(kept.entries("p")) == 1
    assert any("The history" in note and "was damaged" in note for note in kept.notes)
    assert [aside.name[:24] for aside in path.parent.glob("*.damaged-*Z")] == ["history.sqlite3.damaged-"]


@pytest.mark.parametrize(
    "spoil", [lambda path: path.mkdir(), lambda path: path.write_bytes(b"not SQLite" * 1000)], ids=["folder", "text"]
)
def test_what_cannot_be_used_is_one_note_and_entries_stay_in_memory(path: Path, spoil: object) -> None:
    path.parent.mkdir()
    spoil(path)  # type: ignore[operator]
    kept = Book(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        put(kept, 3)
        assert [entry.number for entry in kept.entries("p")] == [1, 2, 3]
    assert len(kept.notes) >= 1


def test_a_newer_versions_file_is_left_alone(path: Path) -> None:
    put(Book(path))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 9")
    before = path.read_bytes()
    kept = Book(path)
    put(kept)
    assert path.read_bytes() == before
    assert any("newer version" in note for note in kept.notes)
    assert len(kept.entries("p")) == 1


def test_a_store_of_points_in_its_place_is_left_alone(path: Path) -> None:
    from esen_lab.profiler.store_file import StoreFile

    path.parent.mkdir()
    StoreFile(path).put([])
    before = path.read_bytes()
    kept = Book(path)
    put(kept)
    assert path.read_bytes() == before
    assert any("another program" in note for note in kept.notes)


def test_what_could_not_be_written_is_written_later(path: Path) -> None:
    path.parent.write_text("no folder")
    kept = Book(path)
    put(kept, 2)
    assert len(kept.notes) == 1
    path.parent.unlink()
    put(kept)
    assert kept.notes == ()
    assert [entry.number for entry in Book(path).entries("p")] == [1, 2, 3]


def test_only_so_many_are_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book, "_MOST_UNSAVED", 4)
    (tmp_path / "no folder").touch()
    kept = Book(tmp_path / "no folder" / "h.sqlite3")
    for runs in range(1, 8):
        put(kept, runs=runs)
    assert [entry.runs for entry in kept.entries("p")] == [4, 5, 6, 7]


def test_two_processes_number_what_they_write_apart(path: Path) -> None:
    code = """if True:
        import sys
        sys.path.insert(0, "tests/doubles")
        from past import an_entry
        from esen_lab.history import Book, Slot
        book = Book(sys.argv[1])
        for _ in range(15):
            book.put(Slot("p"), an_entry())
        print(book.notes)
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(path)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    assert [writer.communicate(timeout=120)[0].strip() for writer in writers] == ["()", "()"]
    assert [entry.number for entry in Book(path).entries("p")] == list(range(1, 31))


def test_a_writer_that_is_killed_leaves_a_sound_file(path: Path) -> None:
    code = """if True:
        import sys
        sys.path.insert(0, "tests/doubles")
        from past import an_entry
        from esen_lab.history import Book, Slot
        book = Book(sys.argv[1])
        while True:
            book.put(Slot("p"), an_entry())
            print("put", flush=True)
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        for _ in range(3):
            writer.stdout.readline()
        writer.kill()
    kept = Book(path)
    there = len(kept.entries("p"))
    assert there >= 3
    put(kept)
    assert len(Book(path).entries("p")) == there + 1
    assert kept.notes == ()
