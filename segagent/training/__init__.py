"""Data -> weights.

Segmenters: `segmenter_trainer.py` is the loop. Multimodal LLMs: `trajectory_index.py` -> `examples.py` ->
`collate.py` -> `sft.py`, the loop. Nano's tower: `tower_pretraining.py`. Every other file is a part of one of them.
"""
