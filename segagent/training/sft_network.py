"""Which weights of a multimodal LLM are trained, how, and how their checkpoint is written. One way for every family."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from segagent.devices import chosen_precision
from segagent.mllm.base import MLLM
from segagent.mllm.conv_tower import inner_convolutions
from segagent.mllm.local import LocalMLLM
from segagent.mllm.parts import PROJECTOR, part_of
from segagent.mllm.transformers_vlm import TransformersVLM
from segagent.training.muon import MuonAndAdamW
from segagent.training.optimization import OptimizerSettings
from segagent.training.sft_settings import SftSettings

log = logging.getLogger(__name__)
_ADAPTER = "default"


def _linear_layers(network: nn.Module) -> list[str]:
    """Names of the linear layers of the language model, its output layer not among them."""
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and part_of(name) == "language" and not name.endswith("lm_head")
    ]


def prepare_network(mllm: MLLM, settings: SftSettings, device: torch.device | None = None) -> None:
    """Freezes, adds LoRA layers and sets precisions, in place. What is trained is float32 afterwards. device: that it
    will be trained on; None: where it is (weights that are to be shared out wait in memory).

    Raises `ValueError` for a quantized model without LoRA, for an adapter that is not merged or is to get another one,
    and when nothing is left to train.
    """
    network = mllm.network
    if isinstance(network, PeftModel):
        raise ValueError(
            f"mllm={mllm.path}: is an adapter beside its base, and only the adapter would be kept; set "
            "mllm.merge_adapter=true, with train.lora_rank=0 (trains the whole model), or begin from the base"
        )
    quantized = bool(getattr(network, "is_quantized", False))
    if quantized and not settings.lora_rank:
        raise ValueError("a quantized model cannot be trained whole: set train.lora_rank (QLoRA), or quantization=none")
    for name, parameter in network.named_parameters():
        trained = part_of(name) not in settings.frozen and parameter.is_floating_point()
        parameter.requires_grad_(trained and not (settings.lora_rank and part_of(name) == "language"))
    if settings.lora_rank and "language" not in settings.frozen:
        mllm.network = network = _with_lora(mllm, network, settings)
    device = network.device if device is None else device
    whole = chosen_precision(device, settings.precision) == "float32" or _is_of_one_type(network)
    for parameter in network.parameters():
        if parameter.requires_grad or (whole and parameter.is_floating_point()):
            parameter.data = parameter.data.float()
    for module in network.modules():  # what a norm counts has the precision of its weights
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.weight.dtype == torch.float32:
            module.running_mean, module.running_var = module.running_mean.float(), module.running_var.float()
    if getattr(network.config, "positions", None) == "sinusoidal":
        network.positions.requires_grad_(False)  # of fixed ones
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ValueError(f"train.frozen={list(settings.frozen)}: nothing is left to train in {type(network).__name__}")
    if isinstance(mllm, LocalMLLM) and device.type == "cpu":
        # The fused attention of torch takes its time going backwards on a CPU: at nano's size half of a step.
        mllm.network.language.set_attn_implementation("eager")
    if settings.gradient_checkpointing:
        inner = network.language if isinstance(mllm, LocalMLLM) else network
        inner.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def _is_of_one_type(network: nn.Module) -> bool:
    """Whether parts that are frozen must be float32 as soon as the word embeddings are: SmolVLM puts visual tokens, in
    the type of its first weight, among them."""
    if not isinstance(network, PreTrainedModel) or network.config.model_type != "smolvlm":
        return False
    return network.get_input_embeddings().weight.requires_grad


def _with_lora(mllm: MLLM, network: nn.Module, settings: SftSettings) -> nn.Module:
    lora = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=_linear_layers(network),
    )
    # peft freezes all that is not its own.
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    if isinstance(mllm, TransformersVLM):
        if (Path(mllm.path) / "adapter_config.json").is_file():
            raise ValueError(
                f"mllm={mllm.path}: is an adapter, and cannot get another one; go on with its own run (resume=true), "
                "train the whole model (train.lora_rank=0), or make it one first (scripts/merge_adapter.py)"
            )
        if any(part_of(name) == "vision" for name in trained):
            raise ValueError(
                f"train.lora_rank={settings.lora_rank}, train.frozen={list(settings.frozen)}: an adapter keeps no "
                "vision part; add vision to train.frozen, or set train.lora_rank=0"
            )
        # A projector that is trained as well is kept whole in the adapter's folder.
        lora.modules_to_save = sorted({_module_to_save(network, name) for name in trained} - {None}) or None
        return get_peft_model(network, _named_base(lora, mllm.path))
    adapted = inject_adapter_in_model(lora, network, _ADAPTER)
    for name, parameter in adapted.named_parameters():
        parameter.requires_grad_(name in trained or "lora_" in name)
    return adapted


def _named_base(lora: LoraConfig, path: str) -> LoraConfig:
    lora.base_model_name_or_path = str(Path(path).resolve()) if Path(path).is_dir() else path
    return lora


def _module_to_save(network: nn.Module, name: str) -> str | None:
    """The whole projector that a parameter is of, as `peft` names modules: by the end of their name; one of a list of
    them. None for a parameter that is no module's, such as LLaVA's line break between rows of a picture: it stays."""
    words = name.split(".")
    place = next(place for place, word in enumerate(words) if word in PROJECTOR)
    if place == len(words) - 1:
        log.warning("%s: stays as it is, since an adapter keeps whole modules only", name)
        return None
    is_list = isinstance(network.get_submodule(".".join(words[: place + 1])), nn.ModuleList)
    return ".".join(words[place : place + 1 + is_list])


def build_sft_optimizer(network: nn.Module, settings: SftSettings) -> torch.optim.Optimizer:
    """For what is trained; a group's `scale` is its share of the rate. Vectors (norms, biases) do not decay."""
    groups: dict[tuple[bool, bool, bool], list[nn.Parameter]] = {}
    convolutions = {id(weight) for weight in inner_convolutions(network)}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            part, matrix = part_of(name), parameter.ndim > 1
            # Word embeddings and output layer are matrices of words, few of which a batch has.
            inner = parameter.ndim == 2 and part == "language" and ".layers." in name
            inner = inner or id(parameter) in convolutions
            groups.setdefault((inner, part == "vision", matrix), []).append(parameter)
    parts: tuple[list[dict], list[dict]] = ([], [])
    for (inner, vision, matrix), parameters in groups.items():
        scale, decay = settings.vision_lr if vision else 1.0, settings.weight_decay if matrix else 0.0
        parts[inner].append({"params": parameters, "scale": scale, "weight_decay": decay})
    others, matrices = parts
    betas = (settings.beta1, settings.beta2)
    if settings.optimizer == "muon":
        return MuonAndAdamW(matrices, others, lr=settings.lr, betas=betas)
    # Fused: one pass over the weights instead of one per operation, on CPUs too.
    return torch.optim.AdamW([*others, *matrices], lr=settings.lr, betas=betas, fused=True)


def schedule(settings: SftSettings, steps: int) -> OptimizerSettings:
    """The settings that `optimization.learning_rate` takes."""
    return OptimizerSettings(lr=settings.lr, warmup=round(settings.warmup * steps), min_lr=settings.min_lr)


# --- checkpoints ----------------------------------------------------------------------------------------------------


def trained_state(network: nn.Module) -> dict[str, Tensor]:
    """The weights that are trained, by name, and what the network counts while it is (batch norm), on the CPU."""
    return {name: value.detach().cpu() for name, value in _trained(network).items()}


def _trained(network: nn.Module) -> dict[str, Tensor]:
    weights = {name: value for name, value in network.named_parameters() if value.requires_grad}
    norms = [name for name, module in network.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    return weights | {name: value for name, value in network.named_buffers() if name.rpartition(".")[0] in norms}


def load_trained_state(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Raises `ValueError` when names or shapes are not those of this network."""
    own = _trained(network)
    if own.keys() != state.keys() or any(own[name].shape != state[name].shape for name in own):
        odd = sorted(own.keys() ^ state.keys()) or [name for name in own if own[name].shape != state[name].shape]
        raise ValueError(
            f"is of another model or training ({odd[0]} does not fit); resume with the mllm= it began with"
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[name])


def _merged(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state with LoRA layers -> the weights of the network without them, the low-rank updates added in."""
    merged = {name.replace(".base_layer.", "."): value for name, value in state.items() if ".lora_" not in name}
    for name, module in network.named_modules():
        if isinstance(module, LoraLayer):
            down, up = state[f"{name}.lora_A.{_ADAPTER}.weight"], state[f"{name}.lora_B.{_ADAPTER}.weight"]
            weight = merged[f"{name}.weight"]
            update = module.scaling[_ADAPTER] * (up.float() @ down.float())
            merged[f"{name}.weight"] = (weight.float() + update).to(weight.dtype)
    return merged


def save_model(mllm: MLLM, folder: Path, state: Mapping[str, Tensor]) -> None:
    """Writes a folder that `mllm=FOLDER` loads. state: `state_dict` of the network, gathered from all processes.

    Native families: the whole model, low-rank updates merged. Models of transformers: the whole model, or the adapter,
    with `segagent.json` beside it, and tokenizer and image processor of a whole one.
    """
    if isinstance(mllm, LocalMLLM):
        with torch.device("meta"):
            shell = type(mllm.network)(mllm.network.config)
        shell.load_state_dict(_merged(mllm.network, state), assign=True)
        whole = copy.copy(mllm)
        whole.network = shell
        whole.save(folder)
        return
    mllm.network.save_pretrained(folder, state_dict=dict(state))
    (folder / "segagent.json").write_text(json.dumps({"dialogue": mllm.dialogue}) + "\n", encoding="utf-8")
    if not isinstance(mllm.network, PeftModel):
        mllm.save_preprocessing(folder)
