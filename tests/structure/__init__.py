"""Tests of the house itself: sizes, imports, settings, packaging."""
