"""A checkpoint's own preprocessing, put together without torchvision: (pictures, texts) -> tensors with image tokens.

transformers' processor classes insist on a video processor (torchvision) or on packages for videos; pictures need
neither. So image processor (PIL), tokenizer and chat template are loaded one by one, and the class of the checkpoint is
used for what only it knows: how many image tokens stand for a picture.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    Idefics3Processor,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from segagent.mllm.image_size import bounded_size
from segagent.mllm.vlm_checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class ImageBounds:
    """How large pictures are when the network sees them; None leaves it to the checkpoint. See `TransformersVLM`."""

    min_pixels: int | None = None
    max_pixels: int | None = None
    longest_side: int | None = None
    max_tiles: int | None = None
    whole_image: bool = True


def load_processor(checkpoint: Checkpoint, config: PreTrainedConfig, bounds: ImageBounds) -> ProcessorMixin:
    """The checkpoint's processor with the size bounds set, without its video part; bounds may change `config` too.

    Raises `ValueError` when a part is missing or the tokenizer does not know the model's image token.
    """
    kind = _processor_class(config)
    tokenizer = _load_tokenizer(checkpoint.tokenizer)
    settings, _ = kind.get_processor_dict(checkpoint.base)
    image_processor = AutoImageProcessor.from_pretrained(
        checkpoint.base, backend="pil", config=config, trust_remote_code=False
    )
    arguments: dict[str, Any] = {}
    for name, parameter in list(inspect.signature(kind.__init__).parameters.items())[1:]:
        if name == "tokenizer":
            arguments[name] = tokenizer
        elif name == "image_processor":
            arguments[name] = image_processor
        elif name == "video_processor":
            arguments[name] = None
        elif parameter.kind is not inspect.Parameter.VAR_KEYWORD and name != "chat_template":
            value = _setting(name, settings, config)
            if value is not None:
                arguments[name] = value
    # As a processor of transformers: its own goes first, since the tokenizer's may be of the text-only model. An
    # adapter that brings a tokenizer brings its template with it.
    templates = [settings.get("chat_template"), tokenizer.chat_template]
    template = next(filter(None, templates if checkpoint.tokenizer == checkpoint.base else templates[::-1]), None)
    if not template:
        raise ValueError(f"{checkpoint.tokenizer}: has no chat template (chat_template.jinja or tokenizer_config.json)")
    try:
        processor = kind(chat_template=template, **arguments)
    except (AttributeError, TypeError, ImportError) as error:
        raise ValueError(f"{checkpoint.base}: tokenizer or processor files do not fit the model ({error})") from None
    _check_image_token(processor, config, checkpoint)
    if hasattr(image_processor, "image_grid_pinpoints") and getattr(config, "image_grid_pinpoints", None):
        # The network works out a picture's grid once more, from its own list, which a training may have shortened.
        image_processor.image_grid_pinpoints = [list(grid) for grid in config.image_grid_pinpoints]
    _set_bounds(image_processor, config, bounds)
    return processor


def _processor_class(config: PreTrainedConfig) -> type[ProcessorMixin]:
    """The class for this model, made to do without a video processor."""
    if config.model_type == "smolvlm":
        kind = Idefics3Processor  # the same image tokens; SmolVLM's own needs num2words, to count frames in words
    elif type(config) in PROCESSOR_MAPPING:
        kind = PROCESSOR_MAPPING[type(config)]
    else:
        raise ValueError(f"model_type {config.model_type!r} has no processor class in transformers, so no image tokens")

    def check(self: ProcessorMixin, name: str, part: Any) -> Any:
        return None if part is None else super(pictures_only, self).check_argument_for_proper_class(name, part)

    pictures_only = type(kind.__name__, (kind,), {"check_argument_for_proper_class": check})
    # The signature is read to see which parts there are, and an inherited one is the class's own.
    return pictures_only


def _load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (ValueError, ImportError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: its tokenizer cannot be read: {str(error).splitlines()[0]}") from None
    if not tokenizer.is_fast:
        raise ValueError(f"{path}: has no tokenizer.json, so the places of answers in the tokens are not known")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _setting(name: str, settings: dict[str, Any], config: PreTrainedConfig) -> Any:
    """A plain argument of a processor: from its own file; older checkpoints have it in the model's config only."""
    for source in (settings, config.to_dict(), config.to_dict().get("vision_config") or {}):
        if source.get(name) is not None:
            return source[name]
    return None


def _check_image_token(processor: ProcessorMixin, config: PreTrainedConfig, checkpoint: Checkpoint) -> None:
    wanted = getattr(config, "image_token_id", None)
    token = getattr(processor, "image_token", None)
    vocabulary = processor.tokenizer.get_vocab()
    if token is None or vocabulary.get(token) is None or (wanted is not None and vocabulary[token] != wanted):
        found = f"{token!r} is {vocabulary.get(token, 'not there')}"
        raise ValueError(
            f"{checkpoint.tokenizer}: the tokenizer is of another model: {found}, config.json says image token {wanted}"
        )


# --- sizes ----------------------------------------------------------------------------------------------------------


def reads_any_size(image_processor: Any) -> bool:
    """Whether pictures keep their own size within bounds of their area (Qwen2-VL and its successors)."""
    return hasattr(image_processor, "merge_size") and hasattr(image_processor, "temporal_patch_size")


def _set_bounds(image_processor: Any, config: PreTrainedConfig, bounds: ImageBounds) -> None:
    if bounds.min_pixels is not None or bounds.max_pixels is not None:
        if not reads_any_size(image_processor):
            raise _no_such_bound("min_pixels and max_pixels", "longest_side or max_tiles")
        _set_pixels(image_processor, bounds)
    if bounds.longest_side is not None:
        if not hasattr(image_processor, "max_image_size"):
            raise _no_such_bound("longest_side", "min_pixels and max_pixels, or max_tiles")
        image_processor.size = {"longest_edge": bounds.longest_side}
    if bounds.max_tiles is not None:
        _set_tiles(image_processor, config, bounds.max_tiles)
    size, crop = image_processor.size, getattr(image_processor, "crop_size", None)
    if bounds.whole_image and getattr(image_processor, "do_center_crop", False) and size.get("shortest_edge"):
        image_processor.do_center_crop = False
        image_processor.size = {"height": crop["height"], "width": crop["width"]}


def _no_such_bound(name: str, others: str) -> ValueError:
    return ValueError(f"mllm.{name}: this family does not bound pictures so; leave it null, or see {others}")


def _set_pixels(image_processor: Any, bounds: ImageBounds) -> None:
    size = image_processor.size
    least = size["shortest_edge"] if bounds.min_pixels is None else bounds.min_pixels
    most = size["longest_edge"] if bounds.max_pixels is None else bounds.max_pixels
    patch = (image_processor.patch_size * image_processor.merge_size) ** 2
    if not 0 < least <= most or most < patch:
        raise ValueError(
            f"mllm.min_pixels={least}, max_pixels={most}: at least one patch of {patch} pixels, the first not above "
            "the second"
        )
    image_processor.size = {"shortest_edge": least, "longest_edge": most}


def _set_tiles(image_processor: Any, config: PreTrainedConfig, most: int) -> None:
    """InternVL bounds their number, LLaVA-OneVision lists the grids it may choose from."""
    if most < 1:
        raise ValueError(f"mllm.max_tiles={most}: at least 1")
    if hasattr(image_processor, "max_patches"):
        image_processor.min_patches, image_processor.max_patches = min(image_processor.min_patches, most), most
    elif hasattr(image_processor, "image_grid_pinpoints"):
        grids = image_processor.image_grid_pinpoints
        tile = min(min(grid) for grid in grids)
        kept = [list(grid) for grid in grids if (grid[0] // tile) * (grid[1] // tile) <= most]
        # The network works out the same grid once more, from its config.
        image_processor.image_grid_pinpoints = config.image_grid_pinpoints = kept
    else:
        raise _no_such_bound("max_tiles", "min_pixels and max_pixels, or longest_side")


def seen_size(image_processor: Any, *, width: int, height: int) -> tuple[int, int]:
    """(width, height) that a picture has when the network sees it.

    Raises `ValueError` for a family that shows it in several sizes (tiles and an overview) or cuts its sides off.
    """
    if reads_any_size(image_processor):
        return bounded_size(
            width=width,
            height=height,
            multiple=image_processor.patch_size * image_processor.merge_size,
            min_pixels=image_processor.size["shortest_edge"],
            max_pixels=image_processor.size["longest_edge"],
        )
    size = image_processor.size
    tiled = any(hasattr(image_processor, name) for name in ("max_patches", "image_grid_pinpoints", "max_image_size"))
    if tiled or getattr(image_processor, "do_center_crop", False) or not (size.get("height") and size.get("width")):
        raise ValueError(
            "this family does not see a picture at one size of its own, so coordinates in pixels of it mean nothing; "
            "take a dialogue with relative coordinates"
        )
    return size["width"], size["height"]
