"""Durable workflows in Django's own database."""
