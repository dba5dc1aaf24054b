"""The SAM family as click segmenters: image embeddings, clicks and boxes, low-resolution logits as memory.

In and out as `base.ClickSegmenter` says. `Sam` is SAM itself and what its relatives (`samhq`, `sam2`, `sam3tracker`)
share; each states how its pictures are framed and how its network is called. Networks are transformers' classes; the
rules around them (framing, prompts, what is fed back) are those of the published predictors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from segagent.devices import torch_device
from segagent.segmenters.base import check_states
from segagent.segmenters.embedding_cache import Embedding, EmbeddingCache, weights_key
from segagent.segmenters.sam_checkpoint import load_sam
from segagent.segmenters.sam_frames import Frame, LongestSide
from segagent.segmenters.sam_prompts import encode_prompts, hidden_padding
from segagent.types import Box, Click

Multimask = Literal["first", "always", "never"]


@dataclass(frozen=True, eq=False)
class SamEmbedding:
    """An embedded picture. size: (height, width) of it. features: what its network made, without a batch axis."""

    size: tuple[int, int]
    features: Embedding


@dataclass(frozen=True, eq=False)
class SamMemory:
    """What a state remembers: all masks that the network offered last, and which one was taken.

    low_res_logits: `[n, h, w]` float32 on the device, in the frame of the network's input (h = w = 256 of SAM and
    SAM 2). scores: `[n]` float32, the IoU that the network predicts for each, NaN for a given mask. chosen: index of
    the mask taken; its logits are fed back with the next click.
    """

    low_res_logits: Tensor
    scores: np.ndarray
    chosen: int = 0

    @property
    def score(self) -> float:
        """Predicted IoU of the mask taken."""
        return float(self.scores[self.chosen])


def _plain_config(config: dict) -> dict:
    """A transformers config without what does not shape a result: where it was read from, by whom, and how."""
    passing = {"architectures", "dtype", "transformers_version"}
    return {
        key: _plain_config(value) if isinstance(value, dict) else str(value)
        for key, value in sorted(config.items(), key=lambda item: str(item[0]))
        if not str(key).startswith("_") and key not in passing
    }


class Sam:
    """SAM (ViT-B, L, H): a member of `ClickSegmenter` that takes boxes.

    network: transformers' `SamModel`. multimask: when the best of the network's three masks is taken, by predicted
    IoU: for a `first` click that stands alone (no box, no mask before it; otherwise its single mask, made for clearer
    prompts), `always` (the released agent), or `never`. cache: folder of embeddings kept between runs, None: none; with
    one, embeddings are rounded to fp16. cache_bytes: its bound. memory_bytes: of embeddings kept in memory. max_batch:
    states per decoder call. embed_batch: pictures per encoder call. device: see `devices.torch_device`.
    """

    accepts_boxes = True
    waives_click_points = "the network weighs clicks against the picture and may overrule one"

    num_output_tokens = 5  # of the mask decoder, before those of the prompt: IoU and four masks

    def __init__(
        self,
        *,
        network: PreTrainedModel,
        multimask: Multimask = "first",
        cache: str | Path | None = None,
        cache_bytes: int = 50 * 2**30,
        memory_bytes: int = 2**30,
        max_batch: int = 32,
        embed_batch: int = 1,
        device: str = "auto",
    ) -> None:
        if multimask not in ("first", "always", "never"):
            raise ValueError(f"multimask={multimask!r}: choose first, always or never")
        if max_batch < 1 or embed_batch < 1:
            raise ValueError(f"max_batch={max_batch}, embed_batch={embed_batch}: at least 1")
        self.device = torch_device(device)
        self.network = network.to(self.device).eval()
        self.multimask, self.max_batch, self.embed_batch = multimask, max_batch, embed_batch
        self.frame = self.make_frame()
        self.cache = EmbeddingCache(
            memory_bytes=memory_bytes,
            folder=cache,
            folder_bytes=cache_bytes,
            maker=self._maker_key,
            device=self.device,
        )
        with torch.no_grad():
            self._positions = network.get_image_wide_positional_embeddings()

    @classmethod
    def from_checkpoint(cls, path: str | Path, **options: Any) -> Self:
        """A released file or a transformers folder, with the constructor's options."""
        return cls(network=cls.load(path), **options)

    # --- what a relative may state otherwise ------------------------------------------------------------------------

    @staticmethod
    def load(path: str | Path) -> PreTrainedModel:
        return load_sam(path)

    def make_frame(self) -> Frame:
        return LongestSide(self.network.config.vision_config.image_size)

    def encode(self, pixels: Tensor) -> Embedding:
        """`[B, 3, side, side]` -> features, each with a batch axis."""
        return (self.network.get_image_embeddings(pixels),)

    def decode(self, features: Embedding, sparse: Tensor, dense: Tensor, multimask: bool) -> tuple[Tensor, Tensor]:
        """Features of B states, prompts `[B, 1, T, D]` and `[B, D, g, g]` -> logits `[B, 1, n, h, w]`, scores
        `[B, 1, n]`."""
        return self.network.mask_decoder(features[0], self._positions_of(sparse), sparse, dense, multimask)

    def fed_back(self, logits: Tensor) -> Tensor:
        """Low-resolution logits as they are remembered."""
        return logits

    # --- ClickSegmenter ---------------------------------------------------------------------------------------------

    def embed(self, images: Sequence[np.ndarray]) -> list[SamEmbedding]:
        """`[H, W, 3]` uint8 RGB each; a picture that is known (in memory, on disk) is not computed again."""
        for image in images:
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                raise ValueError(f"image is {image.dtype} {list(image.shape)}; images are uint8 RGB [H, W, 3]")
        found = self.cache.embed(images, self._compute)
        return [SamEmbedding(image.shape[:2], features) for image, features in zip(images, found, strict=True)]

    def statistics(self) -> dict[str, int]:
        """Counts of `EmbeddingCache` since this object was made."""
        return self.cache.statistics()

    def remember(self, embeddings: Sequence[SamEmbedding], masks: Sequence[np.ndarray]) -> list[SamMemory]:
        """A given `[H, W]` bool mask stands for logits of +10 and -10. Raises `ValueError` on another size or dtype."""
        grid = 4 * self._positions.shape[-1]
        memories = []
        for embedding, mask in zip(embeddings, masks, strict=True):
            if mask.shape != tuple(embedding.size) or mask.dtype != np.bool_:
                size = list(embedding.size)
                raise ValueError(f"mask is {mask.dtype} {list(mask.shape)}; its image needs bool {size}")
            logits = torch.from_numpy(self.frame.from_picture(mask, grid)[None]).to(self.device)
            memories.append(SamMemory(logits, np.full(1, np.nan, np.float32)))
        return memories

    @torch.inference_mode()
    def predict(
        self,
        embeddings: Sequence[SamEmbedding],
        clicks: Sequence[Sequence[Click]],
        memory: Sequence[SamMemory | None],
        boxes: Sequence[Box | None] | None = None,
    ) -> tuple[list[np.ndarray], list[SamMemory]]:
        """See `ClickSegmenter.predict`. States are decoded together, whatever their clicks and boxes."""
        boxes = [None] * len(embeddings) if boxes is None else boxes
        check_states([e.size for e in embeddings], clicks, memory, boxes, self.accepts_boxes)
        ambiguous = [
            self.multimask == "always"
            or (self.multimask == "first" and len(clicks[k]) == 1 and memory[k] is None and boxes[k] is None)
            for k in range(len(embeddings))
        ]
        masks: list[Any] = [None] * len(embeddings)
        memories: list[Any] = [None] * len(embeddings)
        for several in (True, False):
            rows = [k for k, flag in enumerate(ambiguous) if flag is several]
            for start in range(0, len(rows), self.max_batch):
                part = rows[start : start + self.max_batch]
                states = [(embeddings[k], clicks[k], memory[k], boxes[k]) for k in part]
                for k, mask, after in zip(part, *self._predict(states, several), strict=True):
                    masks[k], memories[k] = mask, after
        return masks, memories

    # --- inside -----------------------------------------------------------------------------------------------------

    def _maker_key(self) -> str:
        """Everything but the pixels that an embedding depends on; file names and versions are not among it."""
        architecture = _plain_config(self.network.config.vision_config.to_dict())
        return weights_key(self.network, type(self).__name__, repr(self.frame), json.dumps(architecture))

    @torch.no_grad()
    def _compute(self, images: Sequence[np.ndarray]) -> Iterator[Embedding]:
        for start in range(0, len(images), self.embed_batch):
            pixels = [self.frame.pixels(image) for image in images[start : start + self.embed_batch]]
            features = self.encode(torch.stack(pixels).to(self.device))
            for row in range(len(pixels)):
                yield tuple(part[row].clone() for part in features)

    def _positions_of(self, sparse: Tensor) -> Tensor:
        return self._positions.expand(len(sparse), -1, -1, -1)

    def _dense(self, memory: Sequence[SamMemory | None]) -> Tensor:
        """`[B, D, g, g]`: the fed-back logits of states that have some, the network's "no mask" for the others."""
        encoder, grid = self.network.prompt_encoder, self._positions.shape[-1]
        none = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        dense = none.expand(len(memory), -1, grid, grid).clone()
        having = [k for k, remembered in enumerate(memory) if remembered is not None]
        if having:
            logits = torch.stack([memory[k].low_res_logits[memory[k].chosen] for k in having])
            dense[having] = encoder.mask_embed(logits[:, None].to(dense))
        return dense

    def _predict(
        self,
        states: Sequence[tuple[SamEmbedding, Sequence[Click], SamMemory | None, Box | None]],
        multimask: bool,
    ) -> tuple[list[np.ndarray], list[SamMemory]]:
        embeddings, clicks, memory, boxes = zip(*states, strict=True)
        scales = [self.frame.scale(embedding.size) for embedding in embeddings]
        prompts = encode_prompts(self.network.prompt_encoder, clicks, boxes, scales, self.device)
        dtype = prompts.tokens.dtype
        features = tuple(torch.stack(parts).to(dtype) for parts in zip(*(e.features for e in embeddings), strict=True))
        decoder = self.network.mask_decoder
        with hidden_padding(decoder.transformer, prompts.used, self.num_output_tokens):
            logits, scores = self.decode(features, prompts.tokens, self._dense(memory), multimask)
        logits, scores = logits[:, 0].float(), scores[:, 0].float()
        best = scores.argmax(1)
        taken = logits[torch.arange(len(logits), device=best.device), best]
        masks = [
            (self.frame.to_picture(low, embedding.size) > 0).cpu().numpy()
            for low, embedding in zip(taken, embeddings, strict=True)
        ]
        kept, scores = [row.clone() for row in self.fed_back(logits)], scores.cpu().numpy()
        return masks, [SamMemory(*row) for row in zip(kept, scores, best.tolist(), strict=True)]
