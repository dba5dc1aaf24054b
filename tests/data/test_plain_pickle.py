import os
import pickle

import pytest

from segagent.data.plain_pickle import read_plain_pickle

PLAIN = [{"ref_id": 1, "tokens": ["left", "cup"], "pair": (1.5, None), "set": {3}, "raw": "café"}]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_containers_of_every_protocol_are_read(tmp_path, protocol):
    content = [{**PLAIN[0], "set": [3]}] if protocol < 4 else PLAIN  # older protocols have no opcode for sets
    (tmp_path / "a.p").write_bytes(pickle.dumps(content, protocol))
    assert read_plain_pickle(tmp_path / "a.p") == content


def test_texts_of_python_2_are_read(tmp_path):
    (tmp_path / "a.p").write_bytes(b"(dp0\nS'sent'\np1\nS'caf\\xc3\\xa9'\np2\ns.")
    assert read_plain_pickle(tmp_path / "a.p") == {"sent": "café"}


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path, protocol):
    (tmp_path / "a.p").write_bytes(pickle.dumps([1, Bomb(str(tmp_path / "ran"))], protocol))
    with pytest.raises(ValueError, match=r"a\.p: refused, since it names (posix|nt|os)\.mkdir"):
        read_plain_pickle(tmp_path / "a.p")
    assert not (tmp_path / "ran").exists()


def test_builtins_are_refused_too(tmp_path):
    (tmp_path / "a.p").write_bytes(b"c__builtin__\neval\n(S'1+1'\ntR.")
    with pytest.raises(ValueError, match=r"refused, since it names builtins\.eval|names __builtin__\.eval"):
        read_plain_pickle(tmp_path / "a.p")


@pytest.mark.parametrize("data", [b"", b"not a pickle", pickle.dumps(PLAIN)[:-9], b"\x80\x04\x95"])
def test_damaged_files_are_named(tmp_path, data):
    (tmp_path / "a.p").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.p: not a whole pickle"):
        read_plain_pickle(tmp_path / "a.p")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.p: no such file"):
        read_plain_pickle(tmp_path / "none.p")


def test_objects_outside_the_file_are_refused(tmp_path):
    (tmp_path / "a.p").write_bytes(b"Pref1\n.")
    with pytest.raises(ValueError, match=r"a\.p: refused, since it names an object outside the file"):
        read_plain_pickle(tmp_path / "a.p")
