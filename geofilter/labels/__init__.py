"""Labels of a run's rows, and the bank learnt from them."""
