"""Scoring: metrics on texts, the benchmarks and the files they come in."""
