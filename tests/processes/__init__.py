"""Real worker processes for tests to kill, and the workflows that they run. Also a Django app, for these."""
