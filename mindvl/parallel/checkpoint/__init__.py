"""Checkpoints that all ranks of a run write together, and that any number of ranks can go on from.

    runs/sft/checkpoints/
        step-400.ckpt/
            __0_0.distcp __1_0.distcp   slices of parameters and optimizer state, a file per rank
            .metadata                   where in them each slice of each tensor lies
            meta.pt                     the rest: step, loops, schedule, data, random numbers, callbacks
            manifest.json               bytes and checksum of every file above; written last
        last.ckpt -> step-400.ckpt
        .step-600.ckpt.mindvl-incomplete/   being written, or left behind by a run that was killed

A directory gets its name when all ranks have finished and everything is on disk; a name that does not begin with a dot
is therefore a whole checkpoint. What each file is for:

    folder.py        names: staging, publishing, pointing, removing, finding the newest
    manifest.py      which files belong to a checkpoint, and whether they are as they were written
    writing.py       torch.distributed.checkpoint's writer, with checksums taken on the way to disk
    staging.py       a copy of the state in the host's memory, for writing in the background
    reading.py       its reader, which runs no code that lies in a checkpoint, and says first what does not fit
    saves.py         what the strategy calls: one save at a time, in the foreground or the background
    consolidate.py   a checkpoint as a folder of safetensors
"""
