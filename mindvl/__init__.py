"""MindVL-Lightning: train MindVL-style vision-language models on NPUs, GPUs or a laptop."""

__version__ = "0.1.0"
