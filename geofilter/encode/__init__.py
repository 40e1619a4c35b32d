"""From rows to features: tokens, the model up to its hook, the SAE. Imports torch, target, rows and bank.features."""
