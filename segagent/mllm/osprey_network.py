"""The network of `Osprey`: vision tower, MLP projector, Llama decoder; its config, and its names in released files.

One network at every scale. The released one takes the third stage of CLIP's ConvNeXt-L at 512x512 (stride 16: 1,024
tokens of 768 channels); nano adds what a model that is trained from nothing needs: norm and positions of its tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Self

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from segagent.mllm.choices import additive
from segagent.mllm.conv_tower import ConvTower
from segagent.mllm.convnext import ConvNeXt
from segagent.mllm.network import IMAGE_TOKEN, VisionLanguageNetwork

# The conversation that Osprey was trained with; the image stands where the text says.
OSPREY_TEMPLATE = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the human's questions. USER: {image}\n{prompt} ASSISTANT:"
)
TOWERS = ("convnext", "convolutional")
POSITIONS = ("none", "sinusoidal", "learnt")
ATTENTIONS = ("causal", "prefix")


@dataclass(frozen=True, kw_only=True)
class OspreyConfig:
    """Architecture. The defaults of `visual_norm` and `positions` are the released model's.

    image_size: side of the square picture that goes in. tower: `convnext` (see `ConvNeXt`: tower_dims, tower_depths,
    stem, layer_scale) or `convolutional` (see `ConvTower`: tower_dims, tower_depths); the features of the last stage
    that is named are read. width, depth, heads, mlp_width: of the decoder.
    vocab_size: None is filled in from the tokenizer. max_length: tokens it reads, image and answer included.
    tie_embeddings: word embeddings are the output weights too. initial_scale: standard deviation of the decoder's
    weights at the start, None for 1 / sqrt(width) (at the usual 0.02 a decoder of width 128 did not learn to point).
    visual_norm: RMS-normalise the visual tokens to the size of word embeddings. positions: codes of row and column that
    are added to the visual tokens, as large as these: `none`, `sinusoidal` (fixed) or `learnt` (begins as those).
    attention: `causal`, or `prefix`: text and picture all see each other, up to the last visual token (PaliGemma, arXiv
    2407.07726), so that a thing above can be told from one below by what is said of both.
    template: the text before the reply, with `{image}` and `{prompt}` and, where it is wanted, `{system}`. What the
    picture is to be asked for comes first in `nano`, so that every visual token can be read in its light.
    """

    image_size: int
    tower_dims: Sequence[int]
    tower_depths: Sequence[int]
    width: int
    depth: int
    heads: int
    mlp_width: int
    tower: str = "convnext"
    stem: int = 4
    layer_scale: float = 1e-6
    vocab_size: int | None = None
    max_length: int = 4096
    rms_eps: float = 1e-5
    rope_theta: float = 10000.0
    tie_embeddings: bool = False
    initial_scale: float | None = None
    visual_norm: bool = False
    positions: str = "none"
    attention: str = "causal"
    template: str = OSPREY_TEMPLATE

    def __post_init__(self) -> None:
        if self.tower not in TOWERS:
            raise ValueError(f"tower={self.tower!r}: choose {', '.join(TOWERS)}")
        if self.image_size % self.stride:
            raise ValueError(f"image_size={self.image_size}: a multiple of the tower's stride {self.stride}")
        if self.width % self.heads or self.width % 4:
            raise ValueError(f"width={self.width}: a multiple of heads={self.heads} and of 4")
        if self.positions not in POSITIONS:
            raise ValueError(f"positions={self.positions!r}: choose {', '.join(POSITIONS)}")
        if self.attention not in ATTENTIONS:
            raise ValueError(f"attention={self.attention!r}: choose {', '.join(ATTENTIONS)}")
        if self.template.count("{image}") != 1 or "{prompt}" not in self.template:
            raise ValueError(f"template={self.template!r}: needs {{image}} once, and {{prompt}}")

    @property
    def stride(self) -> int:
        first = self.stem if self.tower == "convnext" else 2
        return first * 2 ** (len(self.tower_dims) - 1)

    @property
    def grid(self) -> int:
        """Visual tokens along a side."""
        return self.image_size // self.stride

    @property
    def num_visual_tokens(self) -> int:
        return self.grid**2

    @property
    def scale(self) -> float:
        return self.width**-0.5 if self.initial_scale is None else self.initial_scale

    def llama(self) -> LlamaConfig:
        return LlamaConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.width,
            intermediate_size=self.mlp_width,
            num_hidden_layers=self.depth,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            max_position_embeddings=self.max_length,
            rms_norm_eps=self.rms_eps,
            rope_parameters={"rope_type": "default", "rope_theta": self.rope_theta},
            tie_word_embeddings=self.tie_embeddings,
            initializer_range=self.scale,
            bos_token_id=None,
            eos_token_id=None,
        )


def position_table(grid: int, width: int, rms: float) -> Tensor:
    """Codes of the cells of a grid x grid picture in reading order, `[grid^2, width]` float32 of that RMS.

    The first half encodes the column, the second the row, each as sines and cosines of wavelengths from four cells to
    four pictures, so that both neighbours and far ends are told apart.
    """
    waves = torch.logspace(math.log10(4 / grid), math.log10(4), width // 4) if grid > 1 else torch.ones(width // 4)
    phases = 2 * math.pi * (torch.arange(grid) + 0.5)[:, None] / grid / waves
    axis = torch.cat([phases.sin(), phases.cos()], 1)
    table = torch.cat([axis.repeat(grid, 1), axis.repeat_interleave(grid, 0)], 1)
    return table * (math.sqrt(2) * rms)


class OspreyNetwork(VisionLanguageNetwork):
    """See the module. config: with `vocab_size` filled in."""

    def __init__(self, config: OspreyConfig) -> None:
        if config.vocab_size is None:
            raise ValueError("vocab_size=None: fill in the size of the tokenizer")
        super().__init__(LlamaForCausalLM(config.llama()))
        self.config = config
        stages = {"dims": config.tower_dims, "depths": config.tower_depths}
        if config.tower == "convnext":
            self.tower = ConvNeXt(**stages, stem=config.stem, layer_scale=config.layer_scale)
        else:
            self.tower = ConvTower(**stages)
        self.projector = nn.Sequential(
            nn.Linear(config.tower_dims[-1], config.width), nn.GELU(), nn.Linear(config.width, config.width)
        )
        for layer in (self.projector[0], self.projector[2]):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)
        # Otherwise the tokens would be as large as the tower's features happen to be.
        self.visual_norm = nn.RMSNorm(config.width, eps=1e-6) if config.visual_norm else nn.Identity()
        if config.visual_norm:
            nn.init.constant_(self.visual_norm.weight, config.scale)
        self.positions = None
        if config.positions != "none":
            table = position_table(config.image_size // config.stride, config.width, config.scale)
            self.positions = nn.Parameter(table, requires_grad=config.positions == "learnt")

    def train(self, mode: bool = True) -> Self:
        """A frozen tower stays as it is used: its batch norm must not go on counting."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.tower.parameters()):
            self.tower.eval()
        return self

    def project(self, features: Tensor) -> Tensor:
        """Tokens of the tower `[N, T, C]` -> `[N, T, D]`, without positions."""
        tokens = self.projector(features)
        if self.config.visual_norm:  # in autocast the projector's outputs have not the precision of the weights
            tokens = tokens.to(self.visual_norm.weight.dtype)
        return self.visual_norm(tokens)

    def visual_tokens(self, pixel_values: Tensor) -> Tensor:
        """`[N, 3, S, S]` -> `[N, (S / stride)^2, D]` in reading order."""
        tokens = self.project(self.tower(pixel_values))
        return tokens if self.positions is None else tokens + self.positions

    def attention(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """See the base class. With `attention=prefix` it is `[B, 1, L, L]`, as the kernels of the decoder take it."""
        if self.config.attention == "causal":
            return attention_mask
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        last = torch.where(input_ids == IMAGE_TOKEN, places, -1).amax(1)
        before = (places[None] <= places[:, None]) | (places <= last[:, None])[:, None]
        seen = (before & attention_mask.bool()[:, None])[:, None]
        # A padding token in front of a row sees nothing, which no softmax is defined for: what it makes is not read.
        seen = seen | torch.eye(len(places), dtype=torch.bool, device=seen.device)
        eager = self.language.config._attn_implementation == "eager"
        return additive(seen, self.language.dtype) if eager else seen


# --- names in files -----------------------------------------------------------------------------------------------

# (in files, here); the first that fits counts.
_NAMES = (
    ("model.vision_tower.vision_tower.visual.trunk.", "tower."),
    ("model.mm_projector.", "projector."),
    ("model.visual_norm.", "visual_norm."),
    ("model.visual_positions", "positions"),
    ("model.", "language.model."),
    ("lm_head.", "language.lm_head."),
)


def from_file_name(key: str) -> str:
    """Key of a released checkpoint -> name in `OspreyNetwork`; other keys come back as they are."""
    for theirs, ours in _NAMES:
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return key


def to_file_name(name: str) -> str:
    """The inverse of `from_file_name`."""
    for theirs, ours in _NAMES:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise KeyError(name)


def file_tensors(network: OspreyNetwork) -> Iterator[tuple[str, Tensor]]:
    """(key, tensor) of a network under the names of released checkpoints; tied output weights are left out."""
    for name, tensor in network.state_dict().items():
        if not (network.config.tie_embeddings and name == "language.lm_head.weight"):
            yield to_file_name(name), tensor


def file_config(config: OspreyConfig) -> dict:
    """`config.json`: the keys of Llama checkpoints, and our own under `segagent`."""
    ours = {**asdict(config), "tower_dims": list(config.tower_dims), "tower_depths": list(config.tower_depths)}
    return {
        "model_type": "osprey",
        "architectures": ["OspreyLlamaForCausalLM"],
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_length,
        "rms_norm_eps": config.rms_eps,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tie_embeddings,
        "segagent": ours,
    }


# Settings of a Llama's config.json that change what it computes.
_AS_RELEASED = {
    "rope_scaling": None,
    "rope_type": "default",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
}


def read_file_config(values: dict, shapes: dict[str, Sequence[int]], where: str) -> OspreyConfig:
    """`config.json` and the shapes of the weights -> architecture.

    A released config says nothing of the tower: its dims, depths and stem are read from the shapes, its third stage
    (res4) is the one that is used, its pictures are 512x512 unless `image_size` says otherwise. Raises `ValueError`
    naming what is missing.
    """
    if "segagent" in values:
        try:
            known = {key: value for key, value in values["segagent"].items() if key not in ("family", "dialogue")}
            return OspreyConfig(**known)
        except TypeError as error:
            raise ValueError(f"{where}: 'segagent' is not the config of an Osprey ({error})") from None
    trunk = "model.vision_tower.vision_tower.visual.trunk."
    stem = shapes.get(f"{trunk}stem.0.weight")
    if stem is None:
        raise ValueError(f"{where}: the weights have no {trunk}stem.0.weight; this is no Osprey with a ConvNeXt tower")
    dims, depths = [], []
    for stage in range(3):
        blocks = [key for key in shapes if key.startswith(f"{trunk}stages.{stage}.blocks.") and key.endswith("gamma")]
        if not blocks:
            raise ValueError(f"{where}: the weights have no stage {stage} of the tower, which needs three")
        dims.append(shapes[blocks[0]][0])
        depths.append(len(blocks))
    if values.get("num_key_value_heads", values.get("num_attention_heads")) != values.get("num_attention_heads"):
        raise ValueError(f"{where}: num_key_value_heads={values['num_key_value_heads']}; no released one groups heads")
    rotary = values.get("rope_parameters") or {}
    asked = {**values, "rope_type": rotary.get("rope_type", rotary.get("type"))}
    for key, wanted in _AS_RELEASED.items():
        if asked.get(key) not in (None, wanted):
            raise ValueError(f"{where}: {key}={asked[key]}; only {key}={wanted} was released, and is supported")
    try:
        return OspreyConfig(
            image_size=values.get("image_size", 512),
            tower_dims=dims,
            tower_depths=depths,
            stem=stem[-1],
            width=values["hidden_size"],
            depth=values["num_hidden_layers"],
            heads=values["num_attention_heads"],
            mlp_width=values["intermediate_size"],
            vocab_size=shapes["model.embed_tokens.weight"][0],
            max_length=values.get("max_position_embeddings", 2048),
            rms_eps=values.get("rms_norm_eps", 1e-5),
            rope_theta=values.get("rope_theta", rotary.get("rope_theta", 10000.0)),
            tie_embeddings=values.get("tie_word_embeddings", False),
        )
    except KeyError as error:
        raise ValueError(f"{where}: has no {error}; expected the config of a Llama with Osprey's weights") from None


def new_network(config: OspreyConfig, seed: int = 0) -> OspreyNetwork:
    """A network with random weights that follow from the seed; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return OspreyNetwork(config)
