import errno
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segagent.data.trajectories import (
    TrajectoryWriter,
    read_trajectories,
    set_aside,
    trajectory_from_json,
    trajectory_to_json,
)
from segagent.masks import encode_rle
from segagent.types import Action, Box, Click, EndReason, InitKind, Step, Trajectory

RLE = encode_rle(np.eye(5, 7, dtype=bool))
EMPTY = encode_rle(np.zeros((5, 7), bool))

unit = st.none() | st.floats(0, 1)
clicks = st.builds(Click, st.integers(0, 6), st.integers(0, 4), st.booleans())
boxes = st.builds(lambda x, y: Box(x, y, 7, 5), st.integers(0, 6), st.integers(0, 4))
actions = st.builds(Action, click=clicks, text=st.none() | st.text(), predicted_iou=unit, log_prob=unit) | st.builds(
    Action, box=boxes
)
trajectories = st.builds(
    Trajectory,
    sample_id=st.text(min_size=1),
    image_name=st.text() | st.integers(),
    height=st.just(5),
    width=st.just(7),
    text=st.text(),
    target=st.sampled_from([None, RLE]),
    void=st.sampled_from([None, RLE]),
    init=st.sampled_from(InitKind),
    init_mask=st.just(EMPTY),
    init_box=st.none() | boxes,
    init_clicks=st.lists(clicks, max_size=2).map(tuple),
    init_iou=unit,
    steps=st.lists(st.builds(Step, actions, st.just(RLE), unit, unit, st.booleans()), max_size=3).map(tuple),
    end_reason=st.none() | st.sampled_from(EndReason),
    end_text=st.none() | st.text(),
    object_id=st.none() | st.integers() | st.text(),
    category=st.none() | st.text(),
    seconds=unit,
)


def as_json(trajectory):
    return json.dumps(trajectory_to_json(trajectory))


@pytest.fixture
def one():
    return Trajectory(
        sample_id="a",
        image_name="a.png",
        height=5,
        width=7,
        text="cup",
        target=RLE,
        void=None,
        init=InitKind.EMPTY,
        init_mask=EMPTY,
        steps=(Step(Action(click=Click(3, 2)), RLE, 0.0, 1.0),),
        end_reason=EndReason.FINISHED,
    )


@given(trajectories)
def test_a_line_holds_everything(trajectory):
    assert as_json(trajectory_from_json(json.loads(as_json(trajectory)))) == as_json(trajectory)


def test_the_names_of_a_line_are_the_documented_ones(one):
    line = trajectory_to_json(one)
    assert line["steps"][0]["click"] == {"x": 3, "y": 2, "is_positive": True}
    assert (line["init"]["kind"], line["end_reason"], line["steps"][0]["iou_after"]) == ("empty", "finished", 1.0)
    assert "seconds" not in line and trajectory_to_json(replace(one, seconds=1.5))["seconds"] == 1.5


def test_written_lines_are_read_back_in_order(tmp_path, one):
    path = tmp_path / "deep" / "t.jsonl"
    with TrajectoryWriter(path) as writer:
        writer.write([one, replace(one, sample_id="ü\n\u2028")])
        writer.write([replace(one, sample_id="c")])
    assert [t.sample_id for t in read_trajectories(path)] == ["a", "ü\n\u2028", "c"]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda r: r.pop("steps"), "key 'steps' is missing"),
        (lambda r: r["steps"][0]["mask"].update(counts="0"), r"key 'steps\[0\].mask': broken RLE: runs sum to 0"),
        (lambda r: r["target"].update(size=[7, 5]), r"key 'target': mask size \[7, 5\] but the record says \[5, 7\]"),
        (lambda r: r["steps"][0]["click"].update(x=7), "lies outside its 7x5 image"),
        (lambda r: r.update(end_reason="tired"), "'tired' is not a valid EndReason"),
        (lambda r: r.update(steps=3), "not a trajectory of ours"),
    ],
)
def test_unsound_lines_name_file_line_and_key(tmp_path, one, change, message):
    record = json.loads(as_json(one))
    change(record)
    (tmp_path / "t.jsonl").write_text(as_json(one) + "\n" + json.dumps(record) + "\n")
    with pytest.raises(ValueError, match=rf"t.jsonl, line 2: .*{message}"):
        list(read_trajectories(tmp_path / "t.jsonl"))


def test_a_malformed_and_a_cut_line(tmp_path, one):
    (tmp_path / "t.jsonl").write_text(as_json(one) + "\n{]\n")
    with pytest.raises(ValueError, match=r"t.jsonl, line 2: Expecting property name"):
        list(read_trajectories(tmp_path / "t.jsonl"))
    (tmp_path / "t.jsonl").write_text(as_json(one) + "\n" + as_json(one)[:50])
    with pytest.raises(ValueError, match=r"line 2: .*cut off: resume=true repairs"):
        list(read_trajectories(tmp_path / "t.jsonl"))


def test_resuming_keeps_whole_lines_and_drops_the_cut_one(tmp_path, one):
    path = tmp_path / "t.jsonl"
    whole = (as_json(one) + "\n").encode()
    path.write_bytes(whole + whole[:30])
    with TrajectoryWriter(path, resume=True) as writer:
        assert list(writer.done) == ["a"] and "line 2 was cut off" in writer.repaired
        writer.write([replace(one, sample_id="b")])
    assert [t.sample_id for t in read_trajectories(path)] == ["a", "b"]
    with pytest.raises(FileExistsError, match=r"t.jsonl: another run has written it since this one began"):
        TrajectoryWriter(path)
    assert len(list(read_trajectories(path))) == 2, "nothing was taken from it"
    with TrajectoryWriter(path, overwrite=True) as writer:
        assert not writer.done
    assert path.read_bytes() == b""
    with TrajectoryWriter(path) as writer:
        assert not writer.done, "an empty file is as good as none"


def test_resuming_refuses_what_it_cannot_trust(tmp_path, one):
    path = tmp_path / "t.jsonl"
    path.write_text("[1]\n")
    with pytest.raises(ValueError, match=r"line 1: not a trajectory .*cannot resume"):
        TrajectoryWriter(path, resume=True)
    path.write_text((as_json(one) + "\n") * 2)
    with pytest.raises(ValueError, match=r"line 2: sample 'a' is there twice"):
        TrajectoryWriter(path, resume=True)


class FullDisk:
    """A file on a disk with `room` bytes left."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = self.file.write(bytes(data[: self.room]))
        self.room -= count
        return count


def test_a_full_disk_leaves_whole_lines_and_says_how_to_go_on(tmp_path, one):
    path = tmp_path / "t.jsonl"
    with TrajectoryWriter(path) as writer:
        writer.write([one])
        whole = path.read_bytes()
        writer._file = FullDisk(writer._file, room=100)
        with pytest.raises(OSError, match=r"No space left on device while writing .*t.jsonl.*resume=true"):
            writer.write([replace(one, sample_id="b")])
    assert path.read_bytes() == whole


def test_a_lone_surrogate_of_a_served_model_is_kept(tmp_path, one):
    made = replace(one, end_text="caf\u00e9 \ud83d")
    with TrajectoryWriter(tmp_path / "t.jsonl") as writer:
        writer.write([made])
    (again,) = read_trajectories(tmp_path / "t.jsonl")
    assert again.end_text == made.end_text


def test_a_file_that_is_written_to_is_nobody_elses(tmp_path, one):
    path = tmp_path / "t.jsonl"
    with TrajectoryWriter(path) as writer:
        writer.write([one])
        for begin in (
            lambda: TrajectoryWriter(path, resume=True),
            lambda: TrajectoryWriter(path),
            lambda: set_aside(path),
        ):
            with pytest.raises(BlockingIOError, match="another run is writing to it"):
                begin()
        assert len(list(read_trajectories(path))) == 1, "nothing was taken from it"
    with TrajectoryWriter(path, resume=True) as writer:
        assert list(writer.done) == [one.sample_id]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"sample_id": ["a"]}, r"key 'sample_id': \['a'\] is no text"),
        ({"text": None}, "key 'text': None is no text"),
        ({"extras": None}, "key 'extras': None is no object"),
        ({"extras": [1]}, r"key 'extras': \[1\] is no object"),
    ],
)
def test_keys_of_another_type_are_refused_by_line(tmp_path, one, change, message):
    record = trajectory_to_json(one)
    (tmp_path / "t.jsonl").write_text(json.dumps(record) + "\n" + json.dumps(record | change) + "\n")
    read = read_trajectories(tmp_path / "t.jsonl")
    next(read)
    with pytest.raises(ValueError, match=rf"t.jsonl, line 2: {message}"):
        next(read)


def test_what_is_not_utf8_is_refused_by_line(tmp_path, one):
    line = json.dumps(trajectory_to_json(one)).encode()
    (tmp_path / "t.jsonl").write_bytes(line + b"\n" + line.replace(b'"text": "', b'"text": "caf\xe9') + b"\n")
    read = read_trajectories(tmp_path / "t.jsonl")
    next(read)
    with pytest.raises(ValueError, match=r"t.jsonl, line 2: 'utf-8' codec"):
        next(read)
