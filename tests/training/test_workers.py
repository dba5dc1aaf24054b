"""What a worker of a loader raises, as it is told."""

import sys

import pytest
from torch._utils import ExceptionWrapper

from segagent.training.workers import told_plainly


def batches(error):
    """A batch, then what torch raises here when a worker raised `error`."""
    yield 1
    try:
        raise error
    except Exception:
        ExceptionWrapper(sys.exc_info(), where="in DataLoader worker process 0").reraise()


def test_an_error_of_a_worker_is_its_own_words():
    with pytest.raises(ValueError, match=r"^a\.png: broken image; fetch the file again$"):
        list(told_plainly(batches(ValueError("a.png: broken image; fetch the file again"))))
    assert next(told_plainly(batches(ValueError("later")))) == 1


def test_other_errors_and_those_of_this_process_stay_what_they_are():
    with pytest.raises(KeyError, match="Traceback"):
        list(told_plainly(batches(KeyError("a bug"))))

    def here():
        raise ValueError("plain")
        yield

    with pytest.raises(ValueError, match=r"^plain$"):
        list(told_plainly(here()))
