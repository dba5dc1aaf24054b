"""SAM checkpoints -> transformers networks: official `sam_vit_*.pth` files, and transformers folders of the family.

An official file is a bare dictionary of tensors. Its architecture is read off the tensors' shapes, so that any size
loads, and its names are turned into those of transformers' `SamModel`. Nothing in a file is run: `.pth` files are read
by torch's weights-only reader, folders by transformers without remote code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedModel, SamConfig, SamModel

from segagent.segmenters.torch_files import UNREADABLE, not_readable

# Official name -> transformers' name, applied in this order to whole keys.
_RENAMES = [
    (r"^image_encoder\.patch_embed\.proj\.", "vision_encoder.patch_embed.projection."),
    (r"^image_encoder\.neck\.0\.", "vision_encoder.neck.conv1."),
    (r"^image_encoder\.neck\.1\.", "vision_encoder.neck.layer_norm1."),
    (r"^image_encoder\.neck\.2\.", "vision_encoder.neck.conv2."),
    (r"^image_encoder\.neck\.3\.", "vision_encoder.neck.layer_norm2."),
    (r"^image_encoder\.blocks\.", "vision_encoder.layers."),
    (r"^image_encoder\.", "vision_encoder."),
    (r"^prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$", "shared_image_embedding.positional_embedding"),
    (r"^prompt_encoder\.point_embeddings\.", "prompt_encoder.point_embed."),
    (r"^prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
    (r"^prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
    (r"^prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
    (r"^prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
    (r"^prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
    (r"^mask_decoder\.output_upscaling\.0\.", "mask_decoder.upscale_conv1."),
    (r"^mask_decoder\.output_upscaling\.1\.", "mask_decoder.upscale_layer_norm."),
    (r"^mask_decoder\.output_upscaling\.3\.", "mask_decoder.upscale_conv2."),
    (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
    (r"\.norm(\d)\.", r".layer_norm\1."),
]
_PERCEPTRON = re.compile(
    r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head)\.)layers\.(\d+)\.(.+)$"
)
_BLOCK = re.compile(r"(vision_encoder|mask_decoder)\..*\b(layers|blocks)\.\d+\.")  # none may be left over
_POSITIONS = "shared_image_embedding.positional_embedding"


def load_sam(path: str | Path, decoder_heads: int | None = None) -> SamModel:
    """An official `.pth` file or a transformers folder -> `SamModel` on the CPU, float32, in eval mode.

    decoder_heads: attention heads of an official file's mask decoder, which leave no trace in the shapes; None: 8, as
    in every released file, or fewer where that would leave a head under 8 channels. Raises `ValueError` naming the file
    and the tensor when it is missing, foreign, or does not fit.
    """
    path = Path(path)
    if not path.is_file():
        return load_folder(path, SamModel, ["sam"])
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise ValueError(not_readable(path, error)) from None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path}: is not a dictionary of tensors; expected an official sam_vit_*.pth file")
    return sam_from_official(state, str(path), decoder_heads)


def sam_from_official(state: Mapping[str, Tensor], where: str, decoder_heads: int | None = None) -> SamModel:
    """Tensors by their official names -> `SamModel` that holds them. where: the file's name in messages."""
    try:
        config = _read_architecture(state, where, decoder_heads)
    except (TypeError, IndexError, ZeroDivisionError) as error:
        raise ValueError(f"{where}: tensors of other shapes than an official sam_vit_*.pth file's ({error})") from None
    with torch.device("meta"):  # nothing is drawn at random only to be replaced
        network = SamModel(config)
    renamed = {_rename(key): value for key, value in state.items()}
    renamed["prompt_encoder.shared_embedding.positional_embedding"] = renamed[_POSITIONS]
    expected = network.state_dict()
    for key in sorted(expected.keys() | renamed.keys()):
        wanted = list(expected[key].shape) if key in expected else "nothing of this name"
        found = list(renamed[key].shape) if key in renamed else "not there"
        if wanted != found:
            raise ValueError(f"{where}: {key} is {found}, the architecture read off the other tensors needs {wanted}")
    network.load_state_dict({key: value.float() for key, value in renamed.items()}, assign=True)
    network.tie_weights()
    return network.eval()


def _rename(key: str) -> str:
    for pattern, replacement in _RENAMES:
        key = re.sub(pattern, replacement, key)
    match = _PERCEPTRON.match(key)
    if match is None:
        return key
    stem, layer, rest = match.groups()  # three layers everywhere, as `_read_architecture` made sure
    return stem + {"0": "proj_in.", "1": "layers.0.", "2": "proj_out."}.get(layer, f"layers.{layer}.") + rest


def _read_architecture(state: Mapping[str, Tensor], where: str, decoder_heads: int | None) -> SamConfig:
    """What the shapes say. The three epsilons and the activations are those of the published code."""

    def shape(key: str) -> Sequence[int]:
        if key not in state:
            raise ValueError(f"{where}: {key} is missing; expected an official sam_vit_*.pth file")
        return state[key].shape

    def count(prefix: str) -> int:
        numbers = [key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)]
        return max([int(number) for number in numbers if number.isdecimal()], default=-1) + 1

    projection = shape("image_encoder.patch_embed.proj.weight")
    if len(projection) != 4:
        raise ValueError(f"{where}: image_encoder.patch_embed.proj.weight is {list(projection)}, not of 4 dimensions")
    width, channels, patch, _ = projection
    grid, depth = shape("image_encoder.pos_embed")[1], count("image_encoder.blocks.")
    spans = [(shape(f"image_encoder.blocks.{k}.attn.rel_pos_h")[0] + 1) // 2 for k in range(depth)]
    prompt_width = shape("prompt_encoder.not_a_point_embed.weight")[1]
    decoder = "mask_decoder.transformer.layers.0."
    depth_of_head = count("mask_decoder.iou_prediction_head.layers.")
    if depth_of_head != 3:
        raise ValueError(f"{where}: its IoU head has {depth_of_head} layers; every released SAM has 3")
    return SamConfig(
        vision_config={
            "hidden_size": width,
            "num_channels": channels,
            "patch_size": patch,
            "image_size": grid * patch,
            "num_hidden_layers": depth,
            "num_attention_heads": width // shape("image_encoder.blocks.0.attn.rel_pos_h")[1],
            "mlp_dim": shape("image_encoder.blocks.0.mlp.lin1.weight")[0],
            "output_channels": shape("image_encoder.neck.0.weight")[0],
            "window_size": min([span for span in spans if span != grid], default=grid),
            "global_attn_indexes": [k for k, span in enumerate(spans) if span == grid],
            "num_pos_feats": shape("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix")[1],
        },
        prompt_encoder_config={
            "hidden_size": prompt_width,
            "image_size": grid * patch,
            "patch_size": patch,
            "mask_input_channels": shape("prompt_encoder.mask_downscaling.3.weight")[0],
            "num_point_embeddings": count("prompt_encoder.point_embeddings."),
        },
        mask_decoder_config={
            "hidden_size": prompt_width,
            "mlp_dim": shape(f"{decoder}mlp.lin1.weight")[0],
            "num_hidden_layers": count("mask_decoder.transformer.layers."),
            "num_attention_heads": decoder_heads or min(8, max(1, prompt_width // 8)),
            "attention_downsample_rate": prompt_width // shape(f"{decoder}cross_attn_token_to_image.q_proj.weight")[0],
            "num_multimask_outputs": shape("mask_decoder.mask_tokens.weight")[0] - 1,
            "iou_head_depth": depth_of_head,
            "iou_head_hidden_dim": shape("mask_decoder.iou_prediction_head.layers.0.weight")[0],
            "layer_norm_eps": 1e-5,  # torch's own in the published decoder; transformers' default is 1e-6
        },
    )


def load_folder(path: str | Path, network_class: type[PreTrainedModel], model_types: Sequence[str]) -> PreTrainedModel:
    """A transformers folder (config.json, model.safetensors) -> the network on the CPU, float32, in eval mode.

    model_types: what its config may call itself. Raises `ValueError` naming the folder when it is missing, of another
    family, or lacks a tensor.
    """
    path = Path(path)
    if not (path / "config.json").is_file():
        raise ValueError(
            f"{path}: no such checkpoint; give a transformers folder (with config.json) or a released file"
        )
    try:
        model_type = json.loads((path / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path / 'config.json'}: not a transformers config ({error})") from None
    if model_type not in model_types:
        raise ValueError(
            f"{path}: holds a {model_type!r} model; {network_class.__name__} takes {', '.join(model_types)}"
        )
    try:
        network, notes = network_class.from_pretrained(
            path, local_files_only=True, output_loading_info=True, dtype=torch.float32
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{path}: cannot be loaded ({str(error).splitlines()[0]})") from None
    if notes["missing_keys"]:
        raise ValueError(f"{path}: lacks {min(notes['missing_keys'])}, which {network_class.__name__} needs")
    over = sorted(key for key in notes["unexpected_keys"] if _BLOCK.match(key))
    if over:
        raise ValueError(f"{path}: config.json leaves out {over[0]}: it is of another model than the weights")
    return network.eval()
