"""Fine-tuning with and without the removed rows."""
