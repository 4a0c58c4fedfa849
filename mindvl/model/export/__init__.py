"""A trained MindVL leaves for stock transformers: the same numbers under the names and settings of classes that exist.

tensors.py     which tensors a folder holds, each as a run of elements of a source tensor
classes.py     the stock classes that can hold a MindVL, their configurations and their names for its tensors
processor.py   the files that open tokenizer, image processor and chat template
verifying.py   the folder opened again by transformers: the same tensors, the same logits
card.py        README.md of the folder: what it is, how to open it, where it comes from
"""
