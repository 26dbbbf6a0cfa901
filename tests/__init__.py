"""Tests of durable_django; the folders mirror the package."""
