"""How fast the package is beside others of its kind: ``python -m tests.benchmarks.peers --help``."""
