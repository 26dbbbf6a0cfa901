"""Business objects: their instances on their own admin pages, and the way back."""

from __future__ import annotations

from typing import Any, ClassVar
from urllib.parse import urlencode

from django.contrib.admin import AdminSite
from django.contrib.admin.utils import quote
from django.contrib.contenttypes.admin import GenericTabularInline
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import ValidationError
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from durable_django.admin import words
from durable_django.admin.base import APP
from durable_django.conf import settings
from durable_django.models import Instance
from durable_django.store import clock, monitoring, subjects


class DurableInstancesInline(GenericTabularInline):
    """Shows the latest instances that are about an object on the object's own admin page.

    ```
    @admin.register(Order)
    class OrderAdmin(admin.ModelAdmin):
        inlines = [DurableInstancesInline]
    ```

    They are those that were started with ``subject=order``. With a ``tag``, say ``"order"``, they are those
    that were started with ``tags={"order": str(order.pk)}`` instead. Whoever may not view instances does not
    see it.
    """

    model = Instance
    ct_field = "subject_type"
    ct_fk_field = "subject_id"
    tag: str | None = None
    most = 10
    """How many are shown."""

    template = "admin/durable_django/inline.html"
    verbose_name_plural = _("workflows")
    extra = max_num = 0
    can_delete = False

    class Media:
        css: ClassVar = {"all": ["durable_django/admin.css"]}

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Return nothing: the form set has no forms, so that instances may come and go while people edit."""
        return Instance.objects.none()

    def instances_of(self, target: Model) -> QuerySet[Instance]:
        """Return the instances that are about an object, the latest first."""
        using = settings.DATABASE_ALIAS
        query = Instance.objects.using(using).order_by("-created_at", "-pk")
        if self.tag is not None:
            return query.filter(monitoring.tagged(using, self.tag, str(target.pk)))
        return query.filter(subjects.subject_of(using, target).condition)

    def rows(self, target: Model) -> list[dict[str, Any]]:
        """Return what the page shows of each, and of one more if there are more."""
        found = self.instances_of(target).defer("input", "output", "failure")
        return [
            {
                "url": reverse(f"admin:{APP}_instance_change", args=[quote(instance.pk)]),
                "instance": instance,
                "badge": words.badge(instance),
                "age": words.duration(clock.now() - clock.from_orm(instance.created_at)),
                "waits": ", ".join(instance.waiting_for),
            }
            for instance in found[: self.most + 1]
        ]

    def list_query(self, target: Model) -> str:
        """Return what the list of instances is to be asked for to show all of them."""
        if self.tag is not None:
            return urlencode({"tag": f"{self.tag}={target.pk}"})
        return urlencode({"subject": f"{target._meta.label_lower}:{target.pk}"})

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Tell whether a row may be added: never."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Tell whether a row may be changed: never."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Tell whether a row may be deleted: never."""
        return False


def subject_link(site: AdminSite, request: HttpRequest, instance: Instance) -> str | None:
    """Return what an instance is about, as a link to its admin page if the user may view that."""
    text = subjects.text_of(settings.DATABASE_ALIAS, instance)
    if text is None or instance.subject_type_id is None:
        return None
    types = ContentType.objects.db_manager(settings.DATABASE_ALIAS)
    model = types.get_for_id(instance.subject_type_id).model_class()
    admin = site._registry.get(model) if model is not None else None
    if model is None or admin is None:
        return text
    try:
        target = model._default_manager.filter(pk=instance.subject_id).first()
        if target is None or not admin.has_view_permission(request, target):
            return text
        name = f"{site.name}:{model._meta.app_label}_{model._meta.model_name}_change"
        url = reverse(name, args=[quote(target.pk)])
    except (NoReverseMatch, ValidationError, ValueError):
        return text
    return format_html('<a href="{}">{}</a>', url, target)
