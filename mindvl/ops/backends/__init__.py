"""Entries of the operator table that name hardware or need a package of its own; nothing here is imported unasked."""
