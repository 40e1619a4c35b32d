"""A run held against its own records, its inputs and what was made of it; nothing is written."""
