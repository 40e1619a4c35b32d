"""From rows to features: tokens, the model up to its hook, the SAE."""
