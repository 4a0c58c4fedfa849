"""The vision tower, the projector and the language model, composed from transformers' classes."""
