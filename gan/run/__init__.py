"""The run folder: checkpoints, log, lock, progress, summary, and the command line that opens it."""
