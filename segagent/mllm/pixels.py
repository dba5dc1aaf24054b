"""Pictures as CLIP-style towers take them: `[H, W, 3]` uint8 RGB -> normalised `[3, h, w]` float32."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def clip_pixels(image: np.ndarray, width: int, height: int) -> Tensor:
    """The picture resized to width x height (PIL bicubic on uint8), scaled to [0, 1], CLIP's mean and std applied."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image is {image.dtype} {list(image.shape)}; pictures are uint8 [H, W, 3] RGB")
    picture = Image.fromarray(image)
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    values = (np.asarray(picture, np.float32) / 255 - np.float32(CLIP_MEAN)) / np.float32(CLIP_STD)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))
