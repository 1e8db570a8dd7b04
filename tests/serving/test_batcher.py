"""Which requests run next as one batch, by a clock that the tests hold."""

from __future__ import annotations

import math

import pytest

from esen_lab.serving.batcher import Batcher, Waiting
from esen_lab.serving.refusal import RequestRefused
from esen_lab.serving.service_times import Arrivals, BatchTimes


def times(*known: tuple[int, float], predicted_s: float = 0.010, rows: int = 1) -> BatchTimes:
    found = BatchTimes(predicted_s, rows)
    for size, seconds in known:
        found.ran(size, 99.0)  # the first of a size is cold
        found.ran(size, seconds)
    return found


def batcher(of: BatchTimes | None = None, **given: object) -> Batcher:
    return Batcher(**{"times": of or times(), "max_rows": 8, "max_waiting": 4, "window_s": 0.0, **given})  # type: ignore[arg-type]


def one(
    came_s: float = 0.0, rows: int = 1, look: object = "look", due_s: float = math.inf, at_deadline: bool = False
) -> Waiting:
    return Waiting(rows=rows, look=look, came_s=came_s, due_s=due_s, at_deadline=at_deadline)  # type: ignore[arg-type]


def put(queue: Batcher, *waiting: Waiting) -> None:
    for item in waiting:
        queue.put(item, item.came_s)


def test_what_waits_alike_runs_as_one_batch_in_the_order_of_coming() -> None:
    queue = batcher()
    first, second = one(0.0), one(0.1)
    put(queue, first, second)
    assert queue.next(0.2).batch == (first, second)
    assert len(queue) == 0
    assert queue.next(0.2).batch == ()


def test_other_looks_are_other_batches_and_the_oldest_comes_first() -> None:
    queue = batcher()
    put(queue, one(0.0, look="small"), one(0.1, look="large"), one(0.2, look="small"))
    assert [item.came_s for item in queue.next(1.0).batch] == [0.0, 0.2]
    assert [item.came_s for item in queue.next(1.0).batch] == [0.1]


def test_what_may_not_be_joined_runs_alone() -> None:
    queue = batcher()
    put(queue, one(0.0, look=None), one(0.1, look=None))
    assert [len(queue.next(1.0).batch) for _ in range(2)] == [1, 1]


def test_a_batch_has_no_more_rows_than_it_may() -> None:
    queue = batcher(max_rows=4)
    put(queue, one(0.0, rows=3), one(0.1, rows=2), one(0.2, rows=9))
    assert [sum(item.rows for item in queue.next(1.0).batch) for _ in range(3)] == [3, 2, 9]


def test_requests_are_joined_only_while_all_of_them_meet_their_deadlines() -> None:
    queue = batcher(times((1, 0.010), (2, 0.018), (3, 0.026)))
    put(queue, one(due_s=0.020), one(due_s=0.030), one(due_s=0.030))
    # Three would take 26 ms: the first would be late.
    assert [len(queue.next(0.0).batch) for _ in range(2)] == [2, 1]


def test_requests_are_not_joined_where_two_batches_are_sooner_done() -> None:
    queue = batcher(times((1, 0.010), (2, 0.035)))
    put(queue, one(), one())
    assert len(queue.next(0.0).batch) == 1


def test_a_deadline_that_passed_while_waiting_is_found_and_no_other() -> None:
    queue = batcher()
    late, fine = one(due_s=0.5), one(due_s=2.0)
    put(queue, late, fine)
    assert queue.expired(1.0) == [late]
    assert len(queue) == 1


def test_one_more_than_may_wait_is_refused_with_a_time_to_come_again() -> None:
    queue = batcher(times((1, 2.0)), max_waiting=3, max_rows=1)
    put(queue, one(), one(), one())
    with pytest.raises(RequestRefused) as refused:
        put(queue, one())
    assert refused.value.status == 503
    assert refused.value.headers["retry-after"] == "6"
    assert len(queue) == 3


def test_who_left_is_taken_out_once_and_is_not_run() -> None:
    queue = batcher()
    left, stays = one(), one()
    put(queue, left, stays)
    assert queue.take_out(left)
    assert not queue.take_out(left)
    assert queue.next(0.0).batch == (stays,)
    assert not queue.take_out(stays)


def test_a_window_that_is_given_is_kept_and_ends_early_when_the_batch_is_full() -> None:
    queue = batcher(window_s=0.05, max_rows=2)
    put(queue, one(0.0))
    assert queue.next(0.01).look_again_s == pytest.approx(0.05)
    assert len(queue.next(0.05).batch) == 1
    put(queue, one(0.1), one(0.11))
    assert len(queue.next(0.12).batch) == 2


def test_a_batch_that_waits_for_more_holds_up_no_other_one() -> None:
    queue = batcher(times((1, 0.010), (2, 0.015)), window_s=2.0)
    put(queue, one(0.0, look="patient"), one(0.1, rows=8, look="full"), one(0.2, look="urgent", due_s=0.25))
    assert [item.look for item in queue.next(0.2).batch] == ["full"]
    assert queue.next(0.21).look_again_s == pytest.approx(0.235)  # the urgent one's last moment, not the window's end
    assert [item.look for item in queue.next(0.24).batch] == ["urgent"]
    assert queue.next(0.25).look_again_s == pytest.approx(2.0)


def test_who_is_answered_at_his_deadline_is_not_joined_with_one_whose_deadline_is_far_sooner() -> None:
    queue = batcher(times((1, 0.010), (4, 0.011)))
    patient, urgent, like_it = (one(0.0, due_s=due_s, at_deadline=True) for due_s in (3.0, 0.4, 0.5))
    put(queue, patient, urgent, like_it)
    assert queue.next(0.0).batch == (urgent, like_it)  # alone the second would have 0.1 s left after the first
    assert queue.next(0.4).batch == (patient,)


def test_no_window_outlasts_a_deadline() -> None:
    queue = batcher(times((1, 0.010), (2, 0.015)), window_s=10.0)
    put(queue, one(0.0, due_s=0.1))
    assert queue.next(0.0).look_again_s == pytest.approx(0.085)


def test_the_window_is_computed_from_what_batches_take_and_how_often_requests_come() -> None:
    cheap_to_join = times((1, 0.010), (2, 0.011))
    queue = batcher(cheap_to_join, window_s=None)
    put(queue, one(0.000))
    assert len(queue.next(0.0).batch) == 1  # how often they come is not known yet
    put(queue, one(0.001))
    wait = queue.next(0.001)
    # (1 * 10 + 1 * (10 + 10)) / 2 - 11 = 4 ms pay, and the next one is expected in 1 ms.
    assert wait.batch == ()
    assert wait.look_again_s == pytest.approx(0.005)
    put(queue, one(0.002))
    assert queue.next(0.0051).batch  # nobody else came in time


def test_nothing_waits_where_joining_brings_nothing_or_nobody_is_expected() -> None:
    in_proportion = batcher(times((1, 0.010), (2, 0.020)), window_s=None)
    put(in_proportion, one(0.0), one(0.001))
    in_proportion.next(0.001)
    put(in_proportion, one(0.0015))
    # With one waiting: (10 + 20) / 2 - 20 < 0.
    assert len(in_proportion.next(0.0015).batch) == 1
    rare = batcher(times((1, 0.010), (2, 0.011)), window_s=None)
    put(rare, one(0.0))
    rare.next(0.0)
    put(rare, one(5.0))
    assert len(rare.next(5.0).batch) == 1


def test_when_no_more_come_nothing_waits_for_them() -> None:
    queue = batcher(window_s=10.0)
    put(queue, one())
    assert len(queue.next(0.0, draining=True).batch) == 1


def test_before_anything_ran_a_batch_takes_what_the_plan_says_in_proportion_to_its_rows() -> None:
    found = BatchTimes(0.010, rows=4)
    assert [found.of(rows) for rows in (1, 4, 8)] == pytest.approx([0.010, 0.010, 0.020])


def test_between_sizes_that_ran_times_lie_on_a_line_and_beyond_them_in_proportion() -> None:
    found = times((2, 0.010), (4, 0.014))
    assert [found.of(rows) for rows in (1, 2, 3, 4, 8)] == pytest.approx([0.010, 0.010, 0.012, 0.014, 0.028])


def test_the_first_run_of_a_size_is_not_counted_and_later_ones_shift_the_mean() -> None:
    found = BatchTimes(0.010, rows=1)
    found.ran(1, 5.0)
    assert found.of(1) == 0.010
    found.ran(1, 0.020)
    found.ran(1, 0.030)
    assert found.of(1) == pytest.approx(0.022)


def test_a_silence_counts_before_it_ends() -> None:
    found = Arrivals()
    assert found.gap_s(0.0) is None
    for now_s in (0.0, 0.1, 0.2):
        found.came(now_s)
    assert found.gap_s(0.21) == pytest.approx(0.1)
    assert found.gap_s(3.2) == pytest.approx(3.0)
