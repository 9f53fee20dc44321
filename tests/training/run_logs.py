"""Reading the CSV logs of a run."""

import csv


def logged(out, name="loss"):
    """Values of a column of the CSV logs by step, over all parts of the run."""
    values = {}
    for path in sorted((out / "logs" / "csv").glob("from_step_*/metrics.csv")):
        for row in csv.DictReader(path.open()):
            if row.get(name):
                values[int(row["step"])] = row[name]
    return values
