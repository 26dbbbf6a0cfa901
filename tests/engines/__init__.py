"""Acceptance tests with real processes of other engines. Also a Django app, for these processes."""
