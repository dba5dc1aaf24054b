"""The network of `QwenVLChat`: its eyes, and a Qwen-7B decoder, which up to 2,048 tokens is exactly Qwen2's.

Beyond them the released code bends its rotary base (dynamic NTK) and scales queries (log-n); such lengths are refused,
so both are left out. Released files hold query, key and value fused; they are parted on load and fused again on save.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from segagent.mllm.network import VisionLanguageNetwork
from segagent.mllm.qwen_vision import QwenVision, QwenVisionConfig


@dataclass(frozen=True, kw_only=True)
class QwenConfig:
    """What a released config.json says; names as there. intermediate_size: twice the width of the feed-forward."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    seq_length: int
    visual: QwenVisionConfig
    layer_norm_epsilon: float = 1e-6
    rotary_emb_base: float = 10000.0

    @classmethod
    def from_file(cls, values: dict, where: str) -> QwenConfig:
        """Raises `ValueError` naming what is missing, or is not as in the released model."""
        if values.get("model_type", "qwen") != "qwen":
            raise ValueError(
                f"{where}: model_type={values['model_type']!r}: not the config of a Qwen-VL-Chat; mllm=FOLDER finds "
                "the family by itself"
            )
        heads = values.get("num_attention_heads") or 1
        for key, wanted in (
            ("kv_channels", values.get("hidden_size", 0) // heads),
            ("rotary_pct", 1.0),
            ("no_bias", True),
            ("scale_attn_weights", True),
            ("tie_word_embeddings", False),
        ):
            if values.get(key, wanted) != wanted:
                raise ValueError(f"{where}: {key}={values[key]}; only {key}={wanted} was released, and is supported")
        ours = cls.__dataclass_fields__.keys() - {"visual"}
        try:
            seen = {key: value for key, value in values["visual"].items() if key in QwenVisionConfig.__annotations__}
            visual = QwenVisionConfig(**seen)
            return cls(visual=visual, **{key: values[key] for key in ours if key in values})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{where}: not the config of a Qwen-VL-Chat ({error})") from None

    def to_file(self) -> dict:
        """`config.json` with the keys of the released one."""
        ours = {key: getattr(self, key) for key in self.__dataclass_fields__.keys() - {"visual"}}
        return {
            "architectures": ["QWenLMHeadModel"],
            "model_type": "qwen",
            **dict(sorted(ours.items())),
            "kv_channels": self.hidden_size // self.num_attention_heads,
            "rotary_pct": 1.0,
            "no_bias": True,
            "scale_attn_weights": True,
            "tie_word_embeddings": False,
            "use_dynamic_ntk": True,
            "use_logn_attn": True,
            "visual": {key: getattr(self.visual, key) for key in QwenVisionConfig.__annotations__},
        }

    def decoder(self) -> Qwen2Config:
        return Qwen2Config(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size // 2,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=self.num_attention_heads,
            max_position_embeddings=self.seq_length,
            rms_norm_eps=self.layer_norm_epsilon,
            rope_parameters={"rope_type": "default", "rope_theta": float(self.rotary_emb_base)},
            tie_word_embeddings=False,
        )


class QwenNetwork(VisionLanguageNetwork):
    """See the module."""

    def __init__(self, config: QwenConfig) -> None:
        if config.visual.output_dim != config.hidden_size:
            raise ValueError(
                f"visual.output_dim={config.visual.output_dim}, hidden_size={config.hidden_size}: must be equal"
            )
        super().__init__(Qwen2ForCausalLM(config.decoder()))
        self.config = config
        self.visual = QwenVision(config.visual)

    def visual_tokens(self, pixel_values: Tensor) -> Tensor:
        return self.visual(pixel_values)


# --- names in files -----------------------------------------------------------------------------------------------

_LAYER = re.compile(r"transformer\.h\.(\d+)\.(.+)\.(weight|bias)")
_IN_LAYER = {
    "ln_1": "input_layernorm",
    "ln_2": "post_attention_layernorm",
    "attn.c_proj": "self_attn.o_proj",
    "mlp.w1": "mlp.up_proj",
    "mlp.w2": "mlp.gate_proj",
    "mlp.c_proj": "mlp.down_proj",
}
_OUTSIDE = {
    "transformer.wte.weight": "language.model.embed_tokens.weight",
    "transformer.ln_f.weight": "language.model.norm.weight",
    "lm_head.weight": "language.lm_head.weight",
}
_PARTS = ("q_proj", "k_proj", "v_proj")


def from_file_tensors(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """(released key, tensor) -> (name in `QwenNetwork`, tensor); unknown keys come through as they are."""
    for key, tensor in tensors:
        layer = _LAYER.fullmatch(key)
        if key.startswith("transformer.visual."):
            yield key.removeprefix("transformer."), tensor
        elif layer and layer[2] == "attn.c_attn":
            for part, rows in zip(_PARTS, tensor.chunk(3), strict=True):
                yield f"language.model.layers.{layer[1]}.self_attn.{part}.{layer[3]}", rows
        elif layer and layer[2] in _IN_LAYER:
            yield f"language.model.layers.{layer[1]}.{_IN_LAYER[layer[2]]}.{layer[3]}", tensor
        else:
            yield _OUTSIDE.get(key, key), tensor


def file_tensors(network: QwenNetwork) -> Iterator[tuple[str, Tensor]]:
    """The inverse of `from_file_tensors` for a whole network."""
    state = network.state_dict()
    outside = {ours: theirs for theirs, ours in _OUTSIDE.items()}
    in_layer = {ours: theirs for theirs, ours in _IN_LAYER.items()}
    for name, tensor in state.items():
        if name.startswith("visual."):
            yield f"transformer.{name}", tensor
        elif name in outside:
            yield outside[name], tensor
        else:
            number, _, rest = name.removeprefix("language.model.layers.").partition(".")
            module, _, kind = rest.rpartition(".")
            if module.removeprefix("self_attn.") in _PARTS:
                if module.endswith("q_proj"):
                    rows = [state[name.replace("q_proj", part)] for part in _PARTS]
                    yield f"transformer.h.{number}.attn.c_attn.{kind}", torch.cat(rows)
            else:
                yield f"transformer.h.{number}.{in_layer[module]}.{kind}", tensor
