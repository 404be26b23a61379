"""Steps that run two at a time give what they give one after the other."""

import threading

import pytest

from clipaudit.cues.side_by_side import both, each


def test_both_results_come_in_the_order_of_the_steps():
    second_began = threading.Event()

    def first():
        # would wait in vain if the second step began only after the first
        assert second_began.wait(60)
        return "first"

    def second():
        second_began.set()
        return "second"

    assert both(first, second) == ("first", "second")


def test_an_error_of_the_first_step_waits_for_the_second_and_goes_before_its_own():
    ended = []

    def second():
        ended.append(True)
        raise RuntimeError("second")

    def first():
        raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        both(first, second)
    assert ended == [True]
    with pytest.raises(RuntimeError, match="second"):
        both(lambda: None, second)


def test_every_item_gives_its_result_in_the_order_of_the_items():
    later = threading.Event()

    def doubled(item):
        if item == 0:
            assert later.wait(60)
        if item == 1:
            later.set()
        return 2 * item

    assert each(doubled, range(5)) == [0, 2, 4, 6, 8]
    assert each(doubled, [3]) == [6]


def test_an_error_of_an_item_is_raised():
    with pytest.raises(ZeroDivisionError):
        each(lambda item: 1 / item, [1, 0, 2])
