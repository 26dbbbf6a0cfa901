"""The engine, pure: no Django, no I/O, no clock."""
