"""Crops and batches: what the network is shown, and that the seed and the number alone decide it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from segagent.data.refshapes import RefShapes
from segagent.segmenters.simpleclick import Region, SimpleClick
from segagent.training.augmentation import CropAugmentation
from segagent.training.click_rounds import to_part, to_whole
from segagent.training.segmenter_batch import batches, shuffled_index
from segagent.training.vit_init import fresh_network
from segagent.types import Click

PLAIN = dict.fromkeys(("whole", "flip", "brightness", "contrast", "saturation", "cast", "blur", "noise"), 0.0)


def equal(first, second):
    same = all(
        torch.equal(getattr(getattr(first, view), name), getattr(getattr(second, view), name))
        for view in ("whole", "part")
        for name in ("images", "targets", "voids")
    )
    return same and torch.equal(first.windows, second.windows) and vars(first)["clicks"] == vars(second)["clicks"]


def test_the_whole_picture_is_resized_as_the_predictor_does(small):
    sample = small.Rectangles()[0]
    crop = CropAugmentation(**PLAIN | {"whole": 1.0})(sample, 32, np.random.default_rng(0))
    predictor = SimpleClick(network=fresh_network(small.config, 0), device="cpu")
    (embedding,) = predictor.embed([sample.image])
    seen = predictor._crop(embedding, None, Region(0, sample.height - 1, 0, sample.width - 1))[:3]
    for view in (crop.whole, crop.part):
        assert np.abs(seen.permute(1, 2, 0).numpy() * 255 - view.image).max() <= 0.51
        assert not view.void.any()
    assert crop.window == (0, 1, 0, 1)


def test_crops_show_the_object_at_many_scales(small):
    augmentation = CropAugmentation(**PLAIN | {"min_crop": 8, "least_zoom": 1.1, "most_zoom": 3.0, "aspect": 0.0})
    sample = small.Rectangles()[1]
    crops = [augmentation(sample, 32, np.random.default_rng(seed)) for seed in range(60)]
    shares = np.array([crop.part.target.mean() for crop in crops])
    # 14 x 16 of 40 x 48 pixels are 0.12 of the whole picture; 1.1 times as large a crop is 0.83 object.
    assert shares.min() > 0.10 and shares.max() > 0.7 and shares.std() > 0.1
    for crop in crops:
        for view in (crop.part, crop.whole):
            assert view.image[view.target].mean() > view.image[~view.target].mean() + 30, "picture and mask go together"


def test_mirror_moves_picture_mask_and_void_alike(small):
    sample = small.Rectangles()[2]
    void = np.zeros_like(sample.target)
    void[:5, :7] = True
    sample = replace(sample, void=void)
    plain = {**PLAIN, "whole": 1.0}
    straight = CropAugmentation(**plain)(sample, 32, np.random.default_rng(0))
    mirrored = CropAugmentation(**plain | {"flip": 1.0, "flip_vertical": 1.0})(sample, 32, np.random.default_rng(0))
    for name in ("image", "target", "void"):
        assert (getattr(mirrored.part, name) == getattr(straight.part, name)[::-1, ::-1]).all(), name
    assert straight.part.void[0, 0] and not straight.part.void[-1, -1]


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_the_window_says_where_the_part_lies_in_the_whole(small, flip):
    """A picture whose red grows down and whose green grows to the right tells each pixel's place."""
    sample = small.Rectangles()[3]
    rows, columns = np.meshgrid(np.arange(40) * 6, np.arange(48) * 5, indexing="ij")
    sample = replace(sample, image=np.stack([rows, columns, rows], axis=2).astype(np.uint8))
    augmentation = CropAugmentation(**PLAIN | {"flip": flip, "flip_vertical": flip, "min_crop": 12})
    for seed in range(10):
        crop = augmentation(sample, 32, np.random.default_rng(seed))
        whole = torch.from_numpy(crop.whole.image[..., :2].astype(np.float32)).permute(2, 0, 1)[:, None]
        part = to_part(whole, torch.tensor([crop.window] * 2))
        wanted = crop.part.image[..., :2].astype(np.float32)
        assert np.abs(part[:, 0].permute(1, 2, 0).numpy() - wanted).max() < 2
        (click,) = to_whole([Click(10, 20, False)], crop.window, 32)
        assert not click.is_positive
        difference = crop.whole.image[click.y, click.x, :2].astype(float) - wanted[20, 10]
        assert np.abs(difference).max() <= 5, "half a pixel of the whole"


def test_light_changes_the_picture_but_not_the_mask(small):
    sample = small.Rectangles()[2]
    calm = CropAugmentation(**PLAIN | {"whole": 1.0})(sample, 32, np.random.default_rng(0))
    for setting in ("brightness", "contrast", "saturation", "cast", "blur", "noise"):
        value = {"blur": 1.0, "noise": 1.0}.get(setting, 0.4)
        crop = CropAugmentation(**PLAIN | {"whole": 1.0, setting: value})(sample, 32, np.random.default_rng(1))
        assert (crop.part.image != calm.part.image).any() and (crop.whole.image != calm.whole.image).any(), setting
        assert (crop.part.target == calm.part.target).all()


def test_an_epoch_shows_every_sample_once_in_another_order():
    for length in (5, 8, 37):
        epochs = [[shuffled_index(epoch * length + k, length, 0) for k in range(length)] for epoch in range(2)]
        assert all(sorted(epoch) == list(range(length)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert epochs[0] != [shuffled_index(k, 37, 1) for k in range(37)]
    assert epochs[0][1] == epochs[0][0] + 1, "neighbours stay together: they may share a picture"


def test_batches_depend_on_seed_and_number_alone(small):
    whole = list(batches(small.crops(), 0, 12, 4, workers=0))
    assert [batch.numbers for batch in whole] == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11)]
    assert equal(next(iter(batches(small.crops(), 8, 12, 4, workers=0))), whole[2])
    assert not equal(next(iter(batches(small.crops(seed=4), 0, 4, 4, workers=0))), whole[0])
    for views in (whole[0].whole, whole[0].part):
        assert views.images.dtype == torch.uint8 and views.images.shape == (4, 3, 32, 32)
        assert views.targets.shape == (4, 1, 32, 32) and views.targets.dtype == torch.bool


def test_worker_processes_make_the_same_batches_in_order(small):
    crops = small.crops(RefShapes(split="train", limit=64, size=128))
    alone, helped = (list(batches(crops, 4, 16, 4, workers=workers)) for workers in (0, 2))
    assert len(helped) == 3 and all(map(equal, alone, helped))


def test_held_out_samples_are_never_loaded(small):
    dataset = small.Rectangles(20)
    crops = small.crops(dataset, length=13)
    for number in range(60):
        crops[number]
    assert set(dataset.loaded) == set(range(13))


def test_samples_that_cannot_be_learnt_from(small):
    class Odd(small.Rectangles):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return replace(sample, target=self.change(index, sample.target))

    odd = Odd(8)
    odd.change = lambda index, target: target & (index % 2 == 0)
    crops = small.crops(odd)
    assert all(crops[number][1].part.target.any() for number in range(8)), (
        "an empty target gives way to the next sample"
    )
    odd.change = lambda index, target: target & False
    with pytest.raises(ValueError, match="nothing to click"):
        small.crops(odd)[0]
    odd.change = lambda index, target: None
    with pytest.raises(ValueError, match=r"sample 'r.' has no target mask"):
        small.crops(odd)[0]
    with pytest.raises(ValueError, match="9 samples to train on, of a dataset of 8"):
        small.crops(odd, length=9)


@pytest.mark.parametrize("wrong, message", [({"flip": 2}, "flip=2: a prob"), ({"least_zoom": 5.0}, "least_zoom <= ")])
def test_unsound_augmentation_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        CropAugmentation(**wrong)
