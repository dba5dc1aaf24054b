"""What every native model is: a tower that turns pixels into visual tokens, and a decoder of transformers behind it.

In: token ids with `IMAGE_TOKEN` wherever a visual token goes, and pixels. Out: logits. The decoder is transformers'
own (`LlamaForCausalLM`, `Qwen2ForCausalLM`), so that LoRA, gradient checkpointing and attention kernels come with it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from segagent.mllm.parts import part_of

IMAGE_TOKEN = -200  # no id of any vocabulary; the place of one visual token


def positions_of(attention_mask: Tensor) -> Tensor:
    """Position of every token among those that count, `[B, L]` int64; 0 on padding. attention_mask: `[B, L]` 0/1."""
    return (attention_mask.cumsum(-1) - 1).clamp(min=0)


class VisionLanguageNetwork(nn.Module, ABC):
    """Base of the native networks.

    language: a causal language model of transformers. A subclass says how pixels become visual tokens.
    """

    def __init__(self, language: PreTrainedModel) -> None:
        super().__init__()
        self.language = language
        self._no_split_modules = language._no_split_modules  # layers that FSDP shares out one by one

    @abstractmethod
    def visual_tokens(self, pixel_values: Tensor) -> Tensor:
        """`[N, 3, H, W]` normalised pixels -> `[N, T, D]` in the width of the decoder."""

    def embed(self, input_ids: Tensor, pixel_values: Tensor | None = None, pictures: Tensor | None = None) -> Tensor:
        """Embeddings `[B, L, D]`; the visual tokens of the images take the places of `IMAGE_TOKEN` in reading order.

        pictures: `[B]` int64, which of the images each row is about; None: each about its own. Raises `ValueError` when
        places and visual tokens differ in number.
        """
        places = input_ids == IMAGE_TOKEN
        embeddings = self.language.get_input_embeddings()(input_ids.masked_fill(places, 0))
        if pixel_values is None:
            return embeddings
        # An engine that makes all weights bfloat16 (DeepSpeed) leaves the pixels as they are.
        visual = self.visual_tokens(pixel_values.to(self._vision_dtype())).to(embeddings.dtype)
        if pictures is not None:
            visual = visual[pictures]
        if visual.shape[0] * visual.shape[1] != int(places.sum()):
            raise ValueError(
                f"{visual.shape[0]} images give {visual.shape[0] * visual.shape[1]} visual tokens, the token ids have "
                f"{int(places.sum())} places for them: encode and network must agree"
            )
        return embeddings.masked_scatter(places[..., None], visual)

    def _vision_dtype(self) -> torch.dtype:
        return next(weight.dtype for name, weight in self.named_parameters() if part_of(name) == "vision")

    def attention(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The mask that the decoder is given when it reads prompts: `attention_mask`, by which every token sees those
        before it."""
        return attention_mask

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        pixel_values: Tensor | None = None,
        pictures: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
    ) -> CausalLMOutputWithPast:
        """What `MLLM.encode` gives -> logits `[B, L, V]`, and the mean loss over the labels that are not -100.

        logits_to_keep: logits of the last so many tokens only, `[B, N, V]`, without labels; 0 for all.
        """
        return self.language(
            inputs_embeds=self.embed(input_ids, pixel_values, pictures),
            attention_mask=self.attention(input_ids, attention_mask),
            position_ids=positions_of(attention_mask),
            labels=labels,
            use_cache=False,
            logits_to_keep=logits_to_keep,
        )

    def renew_rotary(self) -> None:
        """Computes the rotary frequencies anew: no checkpoint holds them, and a network made on `meta` has none."""
        model = self.language.model
        model.rotary_emb = type(model.rotary_emb)(model.config).to(self.device)

    @property
    def dtype(self) -> torch.dtype:
        return self.language.dtype

    @property
    def device(self) -> torch.device:
        return self.language.device
