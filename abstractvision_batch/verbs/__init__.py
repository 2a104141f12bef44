"""The verbs of the command line as functions, one file each; `run.py` is the first to read."""
