"""Other people's data files, turned into shards."""
