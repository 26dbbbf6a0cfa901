"""The management API on Django REST framework; ``durable_django.rest_framework.urls`` has its URLs."""
