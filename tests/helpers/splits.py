"""What tests of splits say of rows, written out here rather than asked of the code under test."""

import numpy as np


def speakers(rows, indices):
    return set(np.array(rows["speaker"])[indices])


def actors(*numbers):
    return {f"ravdess-{n:02d}" for n in numbers}


def picked(rows, **wanted):
    """Rows whose columns have one of the values, sorted."""
    columns = {name: rows[name][:] for name in wanted}
    return [i for i in range(len(rows)) if all(columns[name][i] in values for name, values in wanted.items())]


def changed(rows, column, file, value):
    values = list(rows[column])
    values[rows["file"].index(file)] = value
    return rows.remove_columns(column).add_column(column, values, feature=rows.features[column])
