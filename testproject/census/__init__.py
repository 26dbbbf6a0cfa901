"""Source census: count what is in a folder of Python files, one activity per file."""
