"""The next batch is made ready while the one before it is worked on."""

import threading

import pytest

from segagent.mllm.ahead import one_ahead


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_all_come_in_order(count):
    assert list(one_ahead(lambda part: part * part, range(count))) == [part * part for part in range(count)]


def test_the_next_one_is_made_meanwhile_and_no_further_one():
    made = [threading.Event() for _ in range(3)]

    def make(part):
        made[part].set()
        return part

    ready = one_ahead(make, range(3))
    assert next(ready) == 0
    assert made[1].wait(timeout=30), "the second part is made although nobody has asked for it yet"
    assert not made[2].is_set()
    assert list(ready) == [1, 2]


def test_what_goes_wrong_is_raised_in_its_turn():
    def make(part):
        if part == 1:
            raise ValueError("part 1 cannot be made")
        return part

    ready = one_ahead(make, range(3))
    assert next(ready) == 0
    with pytest.raises(ValueError, match="part 1 cannot be made"):
        next(ready)
