"""A Django app with workflows whose activities a test can hold."""
