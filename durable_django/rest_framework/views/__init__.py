"""The views, a module for each part of the API."""
