"""A bank of toxic features, what is learnt for it, and the scores it gives."""
