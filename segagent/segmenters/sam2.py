"""SAM 2 and 2.1 as a click segmenter for pictures: a Hiera encoder, and a decoder that reads finer features too."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel, Sam2Model

from segagent.segmenters.embedding_cache import Embedding
from segagent.segmenters.sam import Sam
from segagent.segmenters.sam_checkpoint import load_folder
from segagent.segmenters.sam_frames import Frame, Stretched

_LIMIT = 32.0  # the published image predictor feeds logits back within this range


class Sam2(Sam):
    """SAM 2 and 2.1 (tiny to large) through transformers' `Sam2Model`; the arguments are those of `Sam`.

    Checkpoints are transformers folders, those of the video model included.
    Where a single mask is asked for and is unstable, the network itself gives the best of its three instead.
    """

    num_output_tokens = 6  # object score, IoU and four masks

    @staticmethod
    def load(path: str | Path) -> PreTrainedModel:
        return load_folder(path, Sam2Model, ["sam2", "sam2_video"])

    def make_frame(self) -> Frame:
        return Stretched(self.network.config.prompt_encoder_config.image_size)

    def encode(self, pixels: Tensor) -> Embedding:
        """(finest, finer, `[B, D, g, g]`): four times, twice and once the embedding's resolution."""
        return tuple(self.network.get_image_embeddings(pixels))

    def decode(self, features: Embedding, sparse: Tensor, dense: Tensor, multimask: bool) -> tuple[Tensor, Tensor]:
        return self.network.mask_decoder(
            image_embeddings=features[-1],
            image_positional_embeddings=self._positions_of(sparse),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
            high_resolution_features=list(features[:-1]),
        )[:2]

    def fed_back(self, logits: Tensor) -> Tensor:
        return logits.clamp(-_LIMIT, _LIMIT)
