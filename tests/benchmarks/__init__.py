"""How fast the package is: ``python -m tests.benchmarks --help``."""
