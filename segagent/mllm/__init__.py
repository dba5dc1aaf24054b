"""Multimodal LLMs: (observations) -> replies as text, with log-probabilities. The contract is `base.MLLM`."""
