"""Fine-tuning with and without the removed rows. Imports scanning, labels, judge and what they import."""
