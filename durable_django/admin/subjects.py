"""Business objects: their instances on their own admin pages, and the way back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlencode

from django.apps import apps
from django.contrib import admin
from django.contrib.admin import AdminSite
from django.contrib.admin.checks import InlineModelAdminChecks
from django.contrib.admin.utils import quote
from django.core.checks import CheckMessage
from django.db.models import Model, QuerySet
from django.forms.models import BaseModelFormSet, modelformset_factory
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from durable_django.admin import words
from durable_django.admin.base import url_if_there
from durable_django.conf import settings
from durable_django.models import Instance
from durable_django.store import clock, monitoring
from durable_django.store.subjects import Subject

if TYPE_CHECKING:
    _Inline = admin.TabularInline[Any, Any]
    _FormSet = BaseModelFormSet[Any, Any]
else:  # generic in the stubs alone
    _Inline = admin.TabularInline
    _FormSet = BaseModelFormSet


class _NoForms(_FormSet):
    """A form set without forms, so that instances may come and go while people edit the object."""

    def __init__(self, *args: Any, instance: Any = None, save_as_new: bool = False, **kwargs: Any) -> None:
        self.instance = instance
        super().__init__(*args, **kwargs | {"queryset": Instance.objects.none()})

    @classmethod
    def get_default_prefix(cls) -> str:
        return "durable-instances"

    def initial_form_count(self) -> int:
        return 0  # Whatever is sent: nothing is written through here.

    def total_form_count(self) -> int:
        return 0


class _Checks(InlineModelAdminChecks):
    """All but the one that looks for a foreign key to the object's model: there is none."""

    def _check_relation(self, obj: Any, parent_model: type[Model]) -> list[CheckMessage]:
        return []

    def _check_exclude_of_parent_model(self, obj: Any, parent_model: type[Model]) -> list[CheckMessage]:
        return []


class DurableInstancesInline(_Inline):
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
    checks_class = _Checks
    tag: str | None = None
    most = 10
    """How many are shown."""

    template = "admin/durable_django/inline.html"
    verbose_name_plural = _("workflows")
    extra = max_num = 0
    can_delete = False

    class Media:
        css: ClassVar = {"all": ["durable_django/admin.css"]}

    def get_formset(self, request: HttpRequest, obj: Any = None, **kwargs: Any) -> Any:
        """Return the class of an empty form set."""
        return modelformset_factory(Instance, fields=[], formset=_NoForms, extra=0, max_num=0)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> tuple[()]:
        """Return no fields."""
        return ()

    def instances_of(self, target: Model) -> QuerySet[Instance]:
        """Return the instances that are about an object, the latest first."""
        using = settings.DATABASE_ALIAS
        query = Instance.objects.using(using).order_by("-created_at", "-pk")
        if self.tag is not None:
            return query.filter(monitoring.tagged(using, self.tag, str(target.pk)))
        try:
            return query.filter(Subject.of(target).condition)
        except ValueError:  # No instance can be about an object with such a key.
            return query.none()

    def rows(self, target: Model) -> list[dict[str, Any]]:
        """Return what the page shows of each, and of one more if there are more."""
        found = self.instances_of(target).defer("input", "output", "failure")
        return [
            {
                "url": url_if_there(self.admin_site, "instance_change", quote(instance.pk)),
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
        return urlencode({"subject": str(Subject.of(target))})

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
    subject = Subject.kept_by(instance)
    if subject is None:
        return None
    try:
        page = site._registry.get(apps.get_model(subject.type))
    except (LookupError, ValueError):
        page = None
    target = None if page is None else instance.subject
    if page is None or target is None or not page.has_view_permission(request, target):
        return str(subject)
    meta = page.opts
    try:
        url = reverse(f"{site.name}:{meta.app_label}_{meta.model_name}_change", args=[quote(target.pk)])
    except NoReverseMatch:
        return str(subject)
    return format_html('<a href="{}">{}</a>', url, target)
