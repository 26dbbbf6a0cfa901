"""Workers in network namespaces of their own, which share one PostgreSQL: an app for these, and their tests.

Plain pytest does not collect them: ``tox run -e network``. They need root and ``ip``, and fail without.
"""
