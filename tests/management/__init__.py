"""Tests of the management commands, with real processes."""
