"""A language model that rates rows, over any OpenAI-compatible endpoint."""
