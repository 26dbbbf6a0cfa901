"""Fuzzing the REST API over HTTP, with a worker behind it."""
