"""The admin in a real browser: Chromium, a live server and a live worker process.

They have an environment of their own, ``tox run -e browser``, since they need more than Python packages.
"""
