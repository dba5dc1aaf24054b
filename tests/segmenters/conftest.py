"""Tiny networks of the SAM family with random weights, whose masks lie on both sides of the threshold."""

import pytest
import torch
from transformers import (
    Sam2Config,
    Sam2Model,
    Sam3TrackerConfig,
    Sam3TrackerModel,
    SamConfig,
    SamHQConfig,
    SamHQModel,
    SamModel,
)

from segagent.segmenters import Sam, Sam2, Sam3Tracker, SamHq

DECODER = {"hidden_size": 32, "mlp_dim": 64, "num_attention_heads": 4, "iou_head_hidden_dim": 32}
VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 64,
    "patch_size": 16,
    "output_channels": 32,
    "window_size": 3,
    "global_attn_indexes": [1],
    "num_pos_feats": 16,
    "mlp_dim": 64,
}
HIERA = {
    "model_type": "sam2_hiera_det_model",
    "hidden_size": 16,
    "num_attention_heads": 1,
    "image_size": [64, 64],
    "blocks_per_stage": [1, 1, 2, 1],
    "embed_dim_per_stage": [16, 32, 64, 128],
    "num_attention_heads_per_stage": [1, 1, 2, 2],
    "window_size_per_stage": [4, 2, 4, 2],
    "global_attention_blocks": [3],
    "window_positional_embedding_background_size": [2, 2],
}
SAM3_VIT = {
    "model_type": "sam3_vit_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
    "window_size": 2,
    "global_attn_indexes": [1],
    "pretrain_image_size": 28,
}
SIZES = {"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]], "fpn_hidden_size": 32}


def prompts(side, patch):
    return {"hidden_size": 32, "image_size": side, "patch_size": patch}


def sam():
    return SamModel(SamConfig(vision_config=VIT, prompt_encoder_config=prompts(64, 16), mask_decoder_config=DECODER))


def sam_hq():
    decoder = DECODER | {"vit_dim": 32}
    return SamHQModel(
        SamHQConfig(vision_config=VIT, prompt_encoder_config=prompts(64, 16), mask_decoder_config=decoder)
    )


def sam2():
    vision = SIZES | {"backbone_config": HIERA, "backbone_channel_list": [128, 64, 32, 16]}
    return Sam2Model(
        Sam2Config(vision_config=vision, prompt_encoder_config=prompts(64, 16), mask_decoder_config=DECODER)
    )


def sam3_tracker():
    vision = SIZES | {"backbone_config": SAM3_VIT}
    config = Sam3TrackerConfig(vision_config=vision, prompt_encoder_config=prompts(56, 14), mask_decoder_config=DECODER)
    return Sam3TrackerModel(config)


FAMILY = {
    "sam": (Sam, sam),
    "sam_hq": (SamHq, sam_hq),
    "sam2": (Sam2, sam2),
    "sam3_tracker": (Sam3Tracker, sam3_tracker),
}


def make_tiny(name, **options):
    """A member by its config's name, the same weights at every call. Logits are of the order of 1."""
    kind, build = FAMILY[name]
    torch.manual_seed(1)
    network = build()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:
                fan_in = parameter[0].numel() if parameter.shape[0] > 1 else 4
                parameter.copy_(torch.randn(parameter.shape) * 1.5 / fan_in**0.5)
    return kind(network=network, **{"device": "cpu", **options})


@pytest.fixture(scope="session")
def tiny_sam():
    """`tiny_sam(name, **options)` -> a segmenter."""
    return make_tiny
