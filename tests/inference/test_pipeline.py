from __future__ import annotations

import threading
import time

import pytest

from olmoearth_core.inference.pipeline import overlapped


def test_items_come_out_in_order_and_all_of_them() -> None:
    done = list(overlapped(range(7), lambda i: i * 10, lambda i, read: (i, read), lambda i, made: (*made, i)))
    assert done == [(i, i * 10, i) for i in range(7)]
    assert list(overlapped([], str, lambda i, r: r, lambda i, m: m)) == []


def test_the_next_item_is_read_and_the_last_is_written_while_one_is_computed() -> None:
    read_second, wrote_first = threading.Event(), threading.Event()

    def read(item: int) -> int:
        if item == 1:
            read_second.set()
        return item

    def compute(item: int, _read: int) -> int:
        if item == 0:
            assert read_second.wait(5), "the second item is not read while the first is computed"
        if item == 1:
            assert wrote_first.wait(5), "the first item is not written while the second is computed"
        return item

    def write(item: int, _made: int) -> int:
        if item == 0:
            wrote_first.set()
        return item

    assert list(overlapped(range(3), read, compute, write)) == [0, 1, 2]


def test_few_items_are_alive_at_a_time_however_many_there_are() -> None:
    lock, alive, most = threading.Lock(), 0, 0

    def read(item: int) -> int:
        nonlocal alive, most
        with lock:
            alive += 1
            most = max(most, alive)
        return item

    def write(item: int, _made: int) -> None:
        nonlocal alive
        time.sleep(0.002)  # the slowest part, so that it would pile up
        with lock:
            alive -= 1

    list(overlapped(range(40), read, lambda item, _: item, write))
    assert alive == 0
    assert most <= 6


@pytest.mark.parametrize("where", ["read", "compute", "write"])
def test_an_error_anywhere_stops_the_work_and_keeps_what_was_written(where: str) -> None:
    written: list[int] = []
    before = set(threading.enumerate())

    def at(place: str, item: int) -> int:
        if place == where and item == 3:
            raise RuntimeError(place)
        if place == "write":
            written.append(item)
        return item

    with pytest.raises(RuntimeError, match=where):
        list(overlapped(range(50), lambda i: at("read", i), lambda i, _: at("compute", i), lambda i, _: at("write", i)))
    assert [i for i in written if i < 3] == [0, 1, 2]
    assert len(written) < 10
    assert set(threading.enumerate()) <= before, "a thread outlives the work"
