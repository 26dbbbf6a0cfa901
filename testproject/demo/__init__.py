"""The demo: ``manage.py demo`` runs the other apps' workflows, kills their worker, and checks the results."""
