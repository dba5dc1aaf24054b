"""Data -> weights. Segmenters: `segmenter_trainer.py` is the loop, every other file one of its parts."""
