"""Data recipes: sources, steps with counts in and out, one report; by local processes or by Ray Data.

`recipe` reads the YAML, `table` knows the steps, `sources` divides the work, `unit` does a piece of it, `decide`
settles what only the whole corpus can say, `run` brings them together, `report` tells what became of every sample.
"""
