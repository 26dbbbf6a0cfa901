"""The API within another namespace."""

from __future__ import annotations

from django.urls import include, path

_inner = [path("durable/", include("durable_django.rest_framework.urls"))]
urlpatterns = [path("api/", include((_inner, "api"), namespace="api"))]
