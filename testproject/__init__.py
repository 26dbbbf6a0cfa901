"""The demo project: an ordinary Django project that uses durable_django's public API."""
