"""Chains of phases as one file, and the report at their end."""
