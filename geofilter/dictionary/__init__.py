"""A dictionary (SAE) for a model that has none: training one on the model's own activations, and measuring it."""
