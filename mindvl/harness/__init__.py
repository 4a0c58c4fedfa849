"""Doors for other people's evaluation harnesses: each is thin, and what answers behind it is `mindvl.phases`."""
