"""The check of everything that only a GPU can settle; benchmarks/gpu_check.py is its command."""
