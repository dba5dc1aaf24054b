"""SAM-HQ as a click segmenter: SAM with a token for fine outlines, which also reads early features of the picture."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel, SamHQModel

from segagent.segmenters.embedding_cache import Embedding
from segagent.segmenters.sam import Multimask, Sam
from segagent.segmenters.sam_checkpoint import load_folder


class SamHq(Sam):
    """SAM-HQ (ViT-B, L, H) through transformers' `SamHQModel`; checkpoints are transformers folders.

    hq_only: take the mask of the fine token alone, not its sum with SAM's. The other arguments are those of `Sam`.
    """

    num_output_tokens = 6

    def __init__(
        self,
        *,
        network: PreTrainedModel,
        hq_only: bool = False,
        multimask: Multimask = "first",
        cache: str | Path | None = None,
        cache_bytes: int = 50 * 2**30,
        memory_bytes: int = 2**30,
        max_batch: int = 32,
        embed_batch: int = 1,
        device: str = "auto",
    ) -> None:
        super().__init__(
            network=network,
            multimask=multimask,
            cache=cache,
            cache_bytes=cache_bytes,
            memory_bytes=memory_bytes,
            max_batch=max_batch,
            embed_batch=embed_batch,
            device=device,
        )
        self.hq_only = hq_only

    @staticmethod
    def load(path: str | Path) -> PreTrainedModel:
        return load_folder(path, SamHQModel, ["sam_hq"])

    def encode(self, pixels: Tensor) -> Embedding:
        final, globals_ = self.network.get_image_embeddings(pixels)
        return final, globals_[0]  # the decoder reads the first global block only

    def decode(self, features: Embedding, sparse: Tensor, dense: Tensor, multimask: bool) -> tuple[Tensor, Tensor]:
        logits, scores = self.network.mask_decoder(
            image_embeddings=features[0],
            image_positional_embeddings=self._positions_of(sparse),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
            hq_token_only=self.hq_only,
            intermediate_embeddings=[features[1]],
        )[:2]
        return logits, scores[..., : logits.shape[2]]  # with hq_only too as many as masks; sorted
