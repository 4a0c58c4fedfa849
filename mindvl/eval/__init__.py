"""Scoring of answers: pure functions on texts."""
