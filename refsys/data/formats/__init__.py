"""File formats: readers of mmCIF, BinaryCIF, A3M, Stockholm and Parquet, and a writer of mmCIF."""
