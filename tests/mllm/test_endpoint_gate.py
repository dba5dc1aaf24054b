"""How many requests a server gets at once: found from its answers, bounded, taken back when it has too much to do."""

import threading

import pytest

from segagent.mllm.endpoint_gate import Gate


class Server:
    """Answers `hands` requests a second each, in a time of its own; the gate sees requests waiting all the while."""

    def __init__(self, hands, **settings):
        self.hands, self.now = hands, 0.0
        self.gate = Gate(clock=lambda: self.now, **settings)
        self.gate._waiting = 10**6  # a queue that never empties, without the threads that would stand in it

    def answer(self, count):
        limits = []
        for _ in range(count):
            self.now += 1 / min(self.gate.limit, self.hands)
            self.gate._under_way += 1
            self.gate.__exit__(None, None, None)
            limits.append(self.gate.limit)
        return limits


@pytest.mark.parametrize("hands, found", [(3, 8), (8, 8), (16, 16), (20, 32), (1000, 64)])
def test_it_doubles_as_long_as_that_is_faster(hands, found):
    server = Server(hands, concurrency=None, most=64)
    limits = server.answer(600)
    assert server.gate.limit == found
    assert max(limits) <= min(64, 2 * found)


def test_more_is_tried_again_after_a_while():
    server = Server(8, concurrency=None, most=64)
    server.answer(100)
    assert server.gate.limit == 8
    server.hands = 40
    server.answer(1500)
    assert server.gate.limit == 64


def test_overload_halves_it_down_to_one_and_ends_the_search():
    server = Server(1000, concurrency=None, most=64)
    server.answer(16)
    assert server.gate.limit == 16
    for halvings, limit in enumerate((8, 4, 2, 1, 1)):
        for _ in range(16):  # those under way fail together: one sign
            server.gate.overloaded(halvings)
        assert server.gate.limit == limit
    with server.gate as seen:
        assert seen == 5
    server.answer(20)
    assert server.gate.limit == 1


def test_a_number_is_kept_whatever_happens():
    server = Server(1000, concurrency=3, most=64)
    server.gate.overloaded(0)
    assert set(server.answer(500)) == {3} and server.gate.most == 3


def test_nothing_is_learnt_while_nobody_waits():
    server = Server(1000, concurrency=None, most=64)
    server.gate._waiting = 0
    assert set(server.answer(500)) == {8}


def test_no_more_than_the_limit_are_inside():
    gate, lock, inside, most = Gate(concurrency=3, most=64), threading.Lock(), [0], []

    def visit():
        for _ in range(20):
            with gate:
                with lock:
                    inside[0] += 1
                    most.append(inside[0])
                with lock:
                    inside[0] -= 1

    threads = [threading.Thread(target=visit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert len(most) == 160 and max(most) <= 3
