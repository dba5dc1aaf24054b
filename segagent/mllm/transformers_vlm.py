"""Any vision-language model that transformers loads as an MLLM: observations -> training tensors, or sampled replies.

Qwen2-VL, Qwen2.5-VL, Qwen3-VL, LLaVA-1.5, LLaVA-OneVision, InternVL and SmolVLM are held to the contract by tests; what
else `AutoModelForImageTextToText` loads with a chat template may work. Prompts are those of the model's own template;
answers stand where the template puts an assistant's words, and end with the token that it ends them with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from jinja2 import TemplateError
from PIL import Image
from torch import Tensor

from segagent.dialogue import Observation
from segagent.mllm.ahead import one_ahead
from segagent.mllm.base import Completion, check_request
from segagent.mllm.choices import ChoiceTree
from segagent.mllm.sampling import Sampled
from segagent.mllm.vlm_checkpoint import copy_preprocessing, find_checkpoint, load_config, load_network
from segagent.mllm.vlm_decoding import decode
from segagent.mllm.vlm_processor import ImageBounds, load_processor, reads_any_size, seen_size
from segagent.types import RefusedError

_CONTEXT = 16  # tokens of the prompt that are decoded with a reply, so that spaces at the seam come out right
# Special tokens of some models that a dialogue itself may speak; they open neither a turn nor a picture.
_SPOKEN = ("<ref>", "</ref>", "<box>", "</box>")
_PROBE = "0probe0"


@dataclass(frozen=True, slots=True)
class _AnswerForm:
    """What the template puts around an assistant's words: what precedes them after the prompt, and the end token."""

    lead: str
    end: str


class TransformersVLM:
    """See `MLLM`.

    path: checkpoint folder, adapter folder (LoRA, `peft`) or hub name. base: of an adapter, in place of the one that it
    names. merge_adapter: add it into the weights at load; not with quantization. dialogue: the one that the checkpoint
    was trained on; null: as its `segagent.json` says. dtype: `auto` (as stored), float32, bfloat16, float16.
    quantization: of the language model, none, 8bit or 4bit (NF4), with the package bitsandbytes. device_map: of
    accelerate (`auto` spreads a big model over devices); null: all of it on `device`. min_pixels, max_pixels: bounds of
    a picture's area after resizing (Qwen). longest_side: of a picture before it is cut into tiles (SmolVLM). max_tiles:
    pieces that a picture is cut into at most, overview not counted (InternVL, LLaVA-OneVision). whole_image: where the
    checkpoint's image processor would cut off the sides of a picture (LLaVA-1.5), resize all of it instead. max_length:
    tokens of prompt and reply; null: as many positions as the model has. max_batch: rows, samples included, per network
    call.
    """

    def __init__(
        self,
        *,
        path: str | Path,
        base: str | None = None,
        merge_adapter: bool = True,
        dialogue: str | None = None,
        dtype: str = "auto",
        quantization: str = "none",
        device_map: str | None = None,
        device: str = "auto",
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        longest_side: int | None = None,
        max_tiles: int | None = None,
        whole_image: bool = True,
        max_length: int | None = None,
        max_batch: int = 32,
    ) -> None:
        if max_batch < 1:
            raise ValueError(f"max_batch={max_batch}: at least 1")
        checkpoint = find_checkpoint(path, base)
        config = load_config(checkpoint)
        bounds = ImageBounds(min_pixels, max_pixels, longest_side, max_tiles, whole_image)
        self._processor_parts = (checkpoint, config, bounds)
        self.processor = load_processor(*self._processor_parts)
        self.network = load_network(
            checkpoint,
            config,
            dtype=dtype,
            quantization=quantization,
            device_map=device_map,
            device=device,
            merge_adapter=merge_adapter,
        )
        rows, known = self.network.get_input_embeddings().weight.shape[0], len(self.processor.tokenizer)
        if known > rows:
            raise ValueError(f"{path}: the tokenizer is of another model: it knows {known} tokens, the network {rows}")
        self.path, self.max_batch = str(path), max_batch
        self.dialogue = checkpoint.dialogue if dialogue is None else dialogue
        text_config = config.get_text_config(decoder=True)
        self.max_length = max_length or getattr(text_config, "max_position_embeddings", None) or 2**31
        self._end_ids = self._read_end_ids()
        self._marks = self._read_marks()
        self._form = self._read_answer_form()
        self._trees: dict[tuple[str, ...], ChoiceTree] = {}

    @classmethod
    def from_checkpoint(cls, path: str | Path, **options: Any) -> Self:
        """A checkpoint folder, adapter folder or hub name, with the constructor's options."""
        return cls(path=path, **options)

    # The processor's class is made at run time, so that it cannot be pickled; another process makes its own.

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "processor"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.processor = load_processor(*self._processor_parts)

    def save_preprocessing(self, folder: str | Path) -> None:
        """Copies what the checkpoint has for tokenizer, pictures and template, as it is; bounds of pictures that were
        set here are not in it."""
        copy_preprocessing(self._processor_parts[0], folder)

    @property
    def device(self) -> torch.device:
        """Where inputs go: the device of the first layer."""
        return self.network.get_input_embeddings().weight.device

    def seen_size(self, *, width: int, height: int) -> tuple[int, int]:
        """See `MLLM.seen_size`."""
        return seen_size(self.processor.image_processor, width=width, height=height)

    # --- text ---------------------------------------------------------------------------------------------------------

    def _read_end_ids(self) -> set[int]:
        named = self.network.generation_config.eos_token_id
        ends = {named} if isinstance(named, int) else set(named or ())
        if self.processor.tokenizer.eos_token_id is not None:
            ends.add(self.processor.tokenizer.eos_token_id)
        if not ends:
            raise ValueError(f"{self.path}: neither generation_config.json nor the tokenizer names an end token")
        return ends

    def _read_marks(self) -> list[str]:
        """What no description may hold: special tokens, and those that end a reply."""
        tokenizer = self.processor.tokenizer
        special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        ends = tokenizer.convert_ids_to_tokens(sorted(self._end_ids))
        return sorted({mark for mark in (*special, *ends) if mark and mark not in _SPOKEN})

    def _read_answer_form(self) -> _AnswerForm:
        """Asks the template how it continues a prompt with a probe."""
        tokenizer = self.processor.tokenizer
        messages = _messages("", "?")
        prompt = self._render(messages, add_generation_prompt=True)
        answered = self._render([*messages, _message("assistant", _PROBE)], add_generation_prompt=False)
        lead, tail = "", ""
        if answered.startswith(prompt) and _PROBE in answered[len(prompt) :]:
            lead, _, tail = answered[len(prompt) :].partition(_PROBE)
        ends = [tokenizer.convert_ids_to_tokens(index) for index in sorted(self._end_ids)]
        found = [end for end in ends if end and end in tail]
        end = min(found, key=tail.index) if found else tokenizer.eos_token or ends[0]
        return _AnswerForm(lead, end)

    def _render(self, messages: list[dict[str, Any]], *, add_generation_prompt: bool) -> str:
        try:
            return self.processor.tokenizer.apply_chat_template(
                messages,
                chat_template=self.processor.chat_template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
        except (TemplateError, TypeError) as error:  # one of a model without pictures
            where = self._processor_parts[0].tokenizer
            raise ValueError(f"{where}: its chat template takes no messages with pictures ({error})") from None

    def _prompt(self, observation: Observation) -> str:
        text = self._render(_messages(observation.system, observation.prompt), add_generation_prompt=True)
        if text.count(self.processor.image_token) != 1:
            raise RefusedError(
                f"the prompt {observation.prompt[:80]!r} holds {self.processor.image_token!r}, which stands for a "
                "picture in this model; change the description"
            )
        if found := [mark for mark in self._marks if mark in observation.system + observation.prompt]:
            raise RefusedError(
                f"the prompt {observation.prompt[:80]!r} holds {found[0]!r}, which is a mark of this model's own, as "
                "of turns and pictures; change the description"
            )
        if reads_any_size(self.processor.image_processor):
            height, width = observation.image.shape[:2]
            self.seen_size(width=width, height=height)  # refuses what cannot be resized
        return text

    # --- tensors ------------------------------------------------------------------------------------------------------

    def encode(self, observations: Sequence[Observation], answers: Sequence[str] | None = None) -> Mapping[str, Tensor]:
        """See `MLLM.encode`; on the CPU. With the pixels and whatever else the network takes."""
        if not observations:
            raise ValueError("no observations: a batch has at least one")
        prompts = [self._prompt(observation) for observation in observations]
        if answers is None:
            batch = self._tensors(observations, prompts, side="left")
            batch.pop("offset_mapping")
            self._check_length(batch["attention_mask"], reserved=0)
            return batch
        if len(answers) != len(observations):
            raise ValueError(f"{len(observations)} observations and {len(answers)} answers: one each")
        ends = [self._form.lead + answer + self._form.end for answer in answers]
        texts = [prompt + end for prompt, end in zip(prompts, ends, strict=True)]
        batch = self._tensors(observations, texts, side="right")
        batch["labels"] = self._labels(batch, batch.pop("offset_mapping"), [len(end) for end in ends])
        self._check_length(batch["attention_mask"], reserved=0)
        return batch

    def _tensors(self, observations: Sequence[Observation], texts: Sequence[str], *, side: str) -> dict[str, Tensor]:
        bos = self.processor.tokenizer.bos_token
        batch = self.processor(
            images=[Image.fromarray(observation.image) for observation in observations],
            text=list(texts),
            padding=True,
            padding_side=side,
            return_tensors="pt",
            return_offsets_mapping=True,
            add_special_tokens=not (bos and texts[0].startswith(bos)),  # some templates write it themselves
        )
        return dict(batch)

    @staticmethod
    def _labels(batch: Mapping[str, Tensor], offsets: Tensor, tails: Sequence[int]) -> Tensor:
        """-100 but on the last `tails` characters of each text. offsets: `[B, L, 2]` characters, 0 on padding."""
        length = offsets[..., 1].amax(1, keepdim=True)
        begin = length - torch.tensor(tails)[:, None]
        answered = (offsets[..., 1] > begin) & (batch["attention_mask"] > 0)
        return torch.where(answered, batch["input_ids"], -100)

    def _check_length(self, mask: Tensor, *, reserved: int) -> None:
        lengths = mask.sum(1)
        row = int(lengths.argmax())
        if int(lengths[row]) + reserved > self.max_length:
            asked = f" and {reserved} for the reply" if reserved else ""
            raise RefusedError(
                f"row {row}: {int(lengths[row])} tokens{asked}, the model reads {self.max_length}; make the picture "
                "smaller (max_pixels, longest_side, max_tiles) or the description shorter"
            )

    # --- replies ------------------------------------------------------------------------------------------------------

    def generate(
        self,
        observations: Sequence[Observation],
        *,
        prefixes: Sequence[str] | None = None,
        num_samples: int = 1,
        temperature: float = 0.0,
        seeds: Sequence[int] | None = None,
        max_new_tokens: int = 64,
        greedy_first: bool = False,
        choices: Sequence[str] | None = None,
    ) -> list[list[Completion]]:
        """See `MLLM.generate`. Without seeds, every observation has seed 0."""
        prefixes = [""] * len(observations) if prefixes is None else prefixes
        seeds = [0] * len(observations) if seeds is None else seeds
        check_request(
            observations,
            prefixes,
            seeds,
            num_samples=num_samples,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
        )
        drawn = 1 if temperature == 0 else num_samples
        tree = None if choices is None else self._tree(choices)
        rows = max(1, self.max_batch // drawn)
        completions: list[list[Completion]] = []
        parts = [slice(start, start + rows) for start in range(0, len(observations), rows)]
        batches = one_ahead(lambda part: self._begun(observations[part], prefixes[part]), parts)
        for part, batch in zip(parts, batches, strict=True):
            completions += self._generate(
                batch, prefixes[part], drawn, temperature, seeds[part], max_new_tokens, greedy_first, tree
            )
        return [row * (num_samples // drawn) for row in completions]

    def _begun(self, observations: Sequence[Observation], prefixes: Sequence[str]) -> dict[str, Tensor]:
        """Tensors of prompts with the replies begun, on the CPU; `labels` are -100 but on the prefixes."""
        begun = [self._form.lead + prefix if prefix else "" for prefix in prefixes]
        texts = [self._prompt(observation) + begin for observation, begin in zip(observations, begun, strict=True)]
        batch = self._tensors(observations, texts, side="left")
        batch["labels"] = self._labels(batch, batch.pop("offset_mapping"), [len(begin) for begin in begun])
        return batch

    def _generate(
        self,
        batch: dict[str, Tensor],
        prefixes: Sequence[str],
        num_samples: int,
        temperature: float,
        seeds: Sequence[int],
        max_new_tokens: int,
        greedy_first: bool,
        tree: ChoiceTree | None,
    ) -> list[list[Completion]]:
        labels = batch.pop("labels")
        self._check_length(batch["attention_mask"], reserved=max(max_new_tokens, tree.longest if tree else 0))
        inputs = {name: tensor.to(self.device) for name, tensor in batch.items()}
        sampled, weights = decode(
            self.network,
            inputs,
            num_samples=num_samples,
            temperature=temperature,
            seeds=seeds,
            end_ids=sorted(self._end_ids),
            max_new_tokens=max_new_tokens,
            greedy_first=greedy_first,
            tree=tree,
            forced=(labels >= 0).sum(1).tolist(),
        )
        contexts = batch["input_ids"][:, -_CONTEXT:].tolist()
        told = [None] * len(sampled) if weights is None else [tuple(row) for row in weights.tolist()]
        return [
            [self._completion(context, prefix, sample, chances) for sample in row]
            for context, prefix, row, chances in zip(contexts, prefixes, sampled, told, strict=True)
        ]

    def _tree(self, choices: Sequence[str]) -> ChoiceTree:
        """Made once for the texts that are asked about; tokens are those that `encode` learns after a prompt."""
        key = tuple(choices)
        if key not in self._trees:
            prompt = self._render(_messages("", "?"), add_generation_prompt=True)
            texts = [prompt + self._form.lead + text for text in key]
            read = self.processor.tokenizer(texts, return_offsets_mapping=True, add_special_tokens=False)
            paths = [
                [token for token, (_, end) in zip(ids, offsets, strict=True) if end > len(prompt)]
                for ids, offsets in zip(read["input_ids"], read["offset_mapping"], strict=True)
            ]
            self._trees = {key: ChoiceTree(paths)}
        return self._trees[key]

    def _completion(
        self, context: list[int], prefix: str, sample: Sampled, weights: tuple[float, ...] | None
    ) -> Completion:
        """The text that the tokens add to the prompt, without the space that the template puts before a reply."""
        before, after = self._decoded(context), self._decoded(context + sample.tokens)
        text = after[len(before) :] if after.startswith(before) else self._decoded(sample.tokens)
        text = text if prefix else text.removeprefix(self._form.lead)
        return Completion(text, sample.log_prob, sample.finished, weights)

    def _decoded(self, tokens: list[int]) -> str:
        # Special tokens stay: some models write boxes with them.
        return self.processor.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _message(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}


def _messages(system: str, prompt: str) -> list[dict[str, Any]]:
    """A picture and its prompt as the chat templates take them."""
    user = _message("user", prompt)
    user["content"].insert(0, {"type": "image"})
    return [_message("system", system), user] if system else [user]
