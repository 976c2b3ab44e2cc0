"""Selections of rows for tests of splits, written here rather than taken from the tested code."""

import numpy as np


def speakers(rows, indices):
    return set(np.array(rows["speaker"])[indices])


def actors(*numbers):
    return {f"ravdess-{n:02d}" for n in numbers}


def picked(rows, **allowed):
    """Rows whose columns have one of the values, sorted."""
    columns = {name: rows[name][:] for name in allowed}
    return [i for i in range(len(rows)) if all(columns[name][i] in values for name, values in allowed.items())]


def changed(rows, column, file, value):
    values = list(rows[column])
    values[rows["file"].index(file)] = value
    return rows.remove_columns(column).add_column(column, values, feature=rows.features[column])
