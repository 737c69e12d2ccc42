"""Fractions of rates that operators achieve, fitted to records, and the error of predictions.

- ``pairs``: a record's measured times beside the terms that the time model predicts for its case.
- ``fit``: a slowdown of each kind of operator, by robust least squares, and its error left out.
- ``stored_fit``: the fit of a device as a file.

``python -m bench.prediction RECORDS ... [--out FILE]`` fits each device of the records.
"""
