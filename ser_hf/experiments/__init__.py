"""Several trainings: folds, seeds, search, leakage curves."""
