"""Durable workflows in Django's own database."""

__version__ = "0.1.0"
