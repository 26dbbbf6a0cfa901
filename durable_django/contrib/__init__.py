"""Bridges to other packages. Each is optional, and imported only where a project uses it."""
