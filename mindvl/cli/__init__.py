"""The one door: verbs of the `mindvl` command."""
