"""Shards, conversations, packs. `PackedShards` is the LightningDataModule."""
