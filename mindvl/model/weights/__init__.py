"""Weights that others have published come in: found, checked, renamed, and streamed into the shard that a rank owns.

locate.py             a hub id or a local folder -> a folder
safetensors_file.py   one file: its header, what is wrong with it, and any rows of it
tail.py               whether it ends in zeros because a copy was cut short
checkpoint.py         a folder of such files, as one set of named tensors
names.py              their names -> names of MindVL's parameters
shards.py             which part of a parameter this process holds
fill.py               the stream: tensor by tensor, strict about every name
assembly.py           the configuration of a MindVL whose parts come from elsewhere
"""
