"""The HTML report of a dataset: one file that opens from disk and needs nothing else."""
