"""Sample -> the whole picture and a crop of it, both squares, as the predictor sees them at a first and a later click.

Place, scale, mirror, light and noise are random, and alike in both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from segagent.masks import bounding_box
from segagent.types import Sample


@dataclass(frozen=True, eq=False)
class View:
    """image: `[S, S, 3]` uint8 RGB. target, void: `[S, S]` bool."""

    image: np.ndarray
    target: np.ndarray
    void: np.ndarray


@dataclass(frozen=True, eq=False)
class Crop:
    """whole: the picture. part: what was cut out of it. window: where that lies, (y start, y extent, x start, x extent)
    as shares of the way from the first to the last pixel; (0, 1, 0, 1) when the part is the whole."""

    whole: View
    part: View
    window: tuple[float, float, float, float]


def _span(low: int, high: int, size: int, length: float, shift: float) -> tuple[int, int]:
    """(first, end) of a window about [low, high), inside 0..size. shift: -0.5..0.5 of the room it has to move in."""
    length = min(float(size), length)
    centre = (low + high) / 2 + shift * max(0.0, length - (high - low))
    first = int(min(max(centre - length / 2, 0.0), size - length))
    return first, min(size, first + math.ceil(length))


def _resize(planes: np.ndarray, size: int) -> np.ndarray:
    """`[H, W, C]` -> `[size, size, C]` float32, by the predictor's rule: bilinear, corners aligned, no smoothing."""
    tensor = torch.from_numpy(np.ascontiguousarray(planes.transpose(2, 0, 1), np.float32))[None]
    return F.interpolate(tensor, size=(size, size), mode="bilinear", align_corners=True)[0].numpy().transpose(1, 2, 0)


def _share(span: slice, size: int) -> tuple[float, float]:
    """(start, extent) of a span as shares of the way from the first to the last of `size` pixels."""
    way = max(1, size - 1)
    return span.start / way, (span.stop - 1 - span.start) / way


class CropAugmentation:
    """What happens to a picture before the network sees it; all probabilities in [0, 1].

    whole: probability that the part is the whole picture; else it is a crop around the object. least_zoom, most_zoom:
    sides of the crop as multiples of the object's, log-uniform. min_crop: sides of the crop at least, in pixels of the
    picture. aspect: sides may differ by up to this share more. flip, flip_vertical: probabilities of mirroring.
    brightness, contrast, saturation, cast: most change as a share (cast: of each color channel by itself). blur, noise:
    probabilities; blur_sigma in pixels of the crop and noise_sigma in grey levels at most.
    """

    def __init__(
        self,
        *,
        whole: float = 0.4,
        least_zoom: float = 1.1,
        most_zoom: float = 4.0,
        min_crop: int = 32,
        aspect: float = 0.3,
        flip: float = 0.5,
        flip_vertical: float = 0.0,
        brightness: float = 0.25,
        contrast: float = 0.25,
        saturation: float = 0.4,
        cast: float = 0.1,
        blur: float = 0.15,
        blur_sigma: float = 1.0,
        noise: float = 0.2,
        noise_sigma: float = 8.0,
    ) -> None:
        for name, chance in (("whole", whole), ("flip", flip), ("flip_vertical", flip_vertical), ("blur", blur)):
            if not 0 <= chance <= 1:
                raise ValueError(f"{name}={chance}: a probability in [0, 1]")
        if not 0 < least_zoom <= most_zoom:
            raise ValueError(f"least_zoom={least_zoom}, most_zoom={most_zoom}: need 0 < least_zoom <= most_zoom")
        self.whole, self.zoom, self.min_crop, self.aspect = whole, (least_zoom, most_zoom), min_crop, aspect
        self.flip, self.flip_vertical = flip, flip_vertical
        self.brightness, self.contrast, self.saturation, self.cast = brightness, contrast, saturation, cast
        self.blur, self.blur_sigma, self.noise, self.noise_sigma = blur, blur_sigma, noise, noise_sigma

    def __call__(self, sample: Sample, size: int, random: np.random.Generator) -> Crop:
        """Views of `size` pixels a side. The sample has a target; a view may lose it where it is very thin."""
        rows, columns = self._window(sample.target, random)
        void = np.zeros_like(sample.target) if sample.void is None else sample.void
        masks = np.stack([sample.target, void], axis=2).view(np.uint8) * np.uint8(255)
        planes = np.concatenate([sample.image, masks], axis=2)
        # One above the other, so that light and noise are drawn once.
        both = np.stack([_resize(planes, size), _resize(planes[rows, columns], size)])
        window = [*_share(rows, sample.height), *_share(columns, sample.width)]
        for axis, chance in ((1, self.flip_vertical), (2, self.flip)):
            if random.random() < chance:
                both = np.flip(both, axis)
                window[2 * axis - 2] = 1 - window[2 * axis - 2] - window[2 * axis - 1]
        images = self._light(both[..., :3].reshape(2 * size, size, 3), random).reshape(2, size, size, 3)
        # A pixel that is void in part is not to be relied on.
        targets, voids = np.ascontiguousarray(both[..., 3] > 127), np.ascontiguousarray(both[..., 4] > 0.5)
        views = [View(*arrays) for arrays in zip(images, targets, voids, strict=True)]
        return Crop(*views, tuple(window))

    def _window(self, target: np.ndarray, random: np.random.Generator) -> tuple[slice, slice]:
        box = bounding_box(target)
        if random.random() < self.whole or box is None:
            return slice(0, target.shape[0]), slice(0, target.shape[1])
        zoom = math.exp(random.uniform(*np.log(self.zoom)))
        spans = []
        for low, high, size in ((box.y0, box.y1, target.shape[0]), (box.x0, box.x1, target.shape[1])):
            stretch = 1 + random.uniform(0, self.aspect)
            length = max(self.min_crop, zoom * stretch * (high - low))
            spans.append(_span(low, high, size, length, random.uniform(-0.5, 0.5)))
        return slice(*spans[0]), slice(*spans[1])

    def _light(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Light, color, blur and noise: `[S, S, 3]` float32 in 0..255 -> uint8."""
        # A product with thirds: the mean along so short an axis takes NumPy ten times as long.
        grey = image @ np.full((3, 1), 1 / 3, np.float32)
        image = grey + (1 + random.uniform(-1, 1) * self.saturation) * (image - grey)
        middle = grey.mean()
        image = middle + (1 + random.uniform(-1, 1) * self.contrast) * (image - middle)
        gains = (1 + random.uniform(-1, 1) * self.brightness) * (1 + random.uniform(-1, 1, 3) * self.cast)
        image = image * gains.astype(np.float32)
        if random.random() < self.blur:
            image = cv2.GaussianBlur(image, (0, 0), random.uniform(0.2, max(0.21, self.blur_sigma)))
        if random.random() < self.noise:
            sigma = random.uniform(0, self.noise_sigma)
            image = image + sigma * random.standard_normal(image.shape, np.float32)
        return np.clip(np.rint(image), 0, 255).astype(np.uint8)
