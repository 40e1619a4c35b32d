"""Labels of a run's rows, and the bank learnt from them. Imports cut, run, bank, rows and target.sae_folder."""
