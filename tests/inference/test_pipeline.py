from __future__ import annotations

import threading
import time

import pytest

from olmoearth_core.inference.pipeline import Behind, prefetched


def test_items_come_out_in_order_and_all_of_them() -> None:
    assert list(prefetched(range(7), lambda i: i * 10, threads=3, ahead=2)) == [(i, i * 10) for i in range(7)]
    assert list(prefetched([], str, threads=1, ahead=1)) == []


@pytest.mark.parametrize("ahead", [0, 1, 4])
def test_no_more_is_read_ahead_than_was_said(ahead: int) -> None:
    begun: list[int] = []
    for item, _ in prefetched(range(30), begun.append, threads=4, ahead=ahead):
        assert len(begun) <= item + ahead + 2
    assert sorted(begun) == list(range(30))


def test_the_next_items_are_read_while_one_is_used() -> None:
    second = threading.Event()

    def read(item: int) -> int:
        if item == 1:
            second.set()
        return item

    for item, _ in prefetched(range(3), read, threads=1, ahead=1):
        if item == 0:
            assert second.wait(5), "the second item is not read while the first is used"


def test_an_error_of_reading_comes_in_its_turn_and_no_thread_outlives_it() -> None:
    before = set(threading.enumerate())

    def read(item: int) -> int:
        if item == 3:
            raise RuntimeError("read")
        return item

    got: list[int] = []
    with pytest.raises(RuntimeError, match="read"):
        got.extend(item for item, _ in prefetched(range(50), read, threads=2, ahead=2))
    assert set(threading.enumerate()) <= before


def test_what_is_done_behind_is_done_in_order_while_the_caller_goes_on() -> None:
    done: list[int] = []
    go = threading.Event()

    def first() -> None:
        assert go.wait(5), "the caller waits for what it should not"
        done.append(0)

    with Behind(2) as behind:
        behind.do(first)
        behind.do(done.append, 1)
        go.set()
        behind.do(done.append, 2)
    assert done == [0, 1, 2]


def test_few_things_wait_however_many_there_are() -> None:
    lock, waiting, most = threading.Lock(), 0, 0

    def slow() -> None:
        nonlocal waiting
        time.sleep(0.002)
        with lock:
            waiting -= 1

    with Behind(3) as behind:
        for _ in range(40):
            with lock:
                waiting += 1
                most = max(most, waiting)
            behind.do(slow)
    assert waiting == 0
    assert most <= 5


def test_an_error_behind_reaches_the_caller_and_the_rest_is_left() -> None:
    before, done = set(threading.enumerate()), []

    def fail() -> None:
        raise RuntimeError("behind")

    def go_on() -> None:
        with Behind(2) as behind:
            behind.do(fail)
            for item in range(50):
                behind.do(done.append, item)

    with pytest.raises(RuntimeError, match="behind"):
        go_on()
    assert len(done) < 10
    assert set(threading.enumerate()) <= before, "a thread outlives the work"
