"""Sources that take turns."""

import numpy as np
import pytest

from segagent.configuration import build, compose_config, load_named
from segagent.data.mixture import Mixture
from segagent.types import Sample


class Numbers:
    def __init__(self, name, length):
        self.name, self.length = name, length

    def __len__(self):
        return self.length

    def sample_id(self, index):
        return f"{self.name}{index}"

    def __getitem__(self, index):
        image = np.zeros((2, 2, 3), np.uint8)
        return Sample(sample_id=self.sample_id(index), image=image, text="", image_key=index)


def test_sources_take_turns_and_ended_ones_are_passed_over():
    mixed = Mixture(datasets={"a": Numbers("", 4), "b": Numbers("", 1), "c": Numbers("", 2), "none": Numbers("", 0)})
    ids = [mixed.sample_id(index) for index in range(len(mixed))]
    assert ids == ["a/0", "b/0", "c/0", "a/1", "c/1", "a/2", "a/3"]
    assert [sample.sample_id for sample in mixed] == ids
    assert mixed.sample_id(-1) == "a/3"
    with pytest.raises(IndexError, match=r"sample 7 of 7"):
        mixed[7]


def test_pictures_of_different_sources_are_not_taken_for_one():
    mixed = Mixture(datasets={"a": Numbers("", 1), "b": Numbers("", 1)})
    assert mixed[0].image_key != mixed[1].image_key


def test_a_limit_counts_over_all():
    assert len(Mixture(datasets={"a": Numbers("", 4), "b": Numbers("", 4)}, limit=3)) == 3
    assert len(Mixture(datasets={"a": Numbers("", 1)}, limit=3)) == 1


@pytest.mark.parametrize(
    "wrong, message",
    [({"datasets": {}}, "at least one"), ({"datasets": {"a/b": Numbers("", 1)}}, "ambiguous"), ({"limit": 0}, "null")],
)
def test_unsound_mixtures_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Mixture(**{"datasets": {"a": Numbers("", 1)}, **wrong})


def test_the_refshapes_mix_has_all_four_subsets_of_one_split():
    mixed = build(load_named("data", "refshapes_mix"))
    ids = [mixed.sample_id(index) for index in range(4)]
    assert [name.split("/")[1] for name in ids] == ["refshapes", "refshapes+", "refshapesg", "refshapes-thin"]
    assert all(name.split("/")[2:] == ["val", "0", "000000"] for name in ids)


@pytest.mark.parametrize("name", ["refshapes", "refshapes_mix"])
def test_training_asks_generated_sources_for_their_training_split(name):
    config = compose_config("train_segmenter", [f"data={name}"])
    assert build(config.data).sample_id(0).split("/")[-3] == "train"
    assert "split" not in compose_config("train_segmenter", ["data=coco"]).data


def test_files_and_scenes_are_those_of_the_source(tmp_path):
    class Files(Numbers):
        def picture_path(self, index):
            return tmp_path / f"{self.name}{index}.png"

        def scene(self, index):
            return f"scene {index}"

    mixed = Mixture(datasets={"a": Files("x", 2), "b": Numbers("", 2)})
    assert [mixed.picture_path(index) for index in range(3)] == [tmp_path / "x0.png", None, tmp_path / "x1.png"]
    assert mixed.scene(2) == "scene 1"
    with pytest.raises(ValueError, match=r"data 'b': its pictures are not generated"):
        mixed.scene(1)
