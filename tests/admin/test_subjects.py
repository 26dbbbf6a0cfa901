"""Objects of the project: their workflows on their own pages, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, Permission, User
from django.test import Client
from django.urls import reverse

from durable_django.admin import DurableInstancesInline
from durable_django.models import InstanceStatus
from tests import factories

pytestmark = pytest.mark.django_db

LIST = reverse("admin:durable_django_instance_changelist")


class ByTag(DurableInstancesInline):
    tag = "group"
    most = 2


@pytest.fixture(params=[DurableInstancesInline, ByTag])
def inline(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[DurableInstancesInline]:
    """Show workflows on the pages of groups."""
    monkeypatch.setattr(admin.site._registry[Group], "inlines", [request.param])
    chosen: type[DurableInstancesInline] = request.param
    return chosen


@pytest.fixture
def group() -> Group:
    return Group.objects.create(name="Accounting & Co")


def url(group: Group) -> str:
    return reverse("admin:auth_group_change", args=[group.pk])


def about(group: Group) -> dict[str, Any]:
    return {"subject_type": "auth.group", "subject_id": str(group.pk), "tags": {"group": str(group.pk)}}


class TestTheInline:
    def test_it_shows_what_is_about_the_object(
        self, root: Client, inline: Any, group: Group, django_assert_max_num_queries: Any
    ) -> None:
        other = Group.objects.create(name="other")
        ours = factories.make_instance("ours", waiting_for=["payment"], **about(group))
        factories.make_instance("theirs", **about(other))
        factories.make_instance("nobodys")

        with django_assert_max_num_queries(15):
            shown = root.get(url(group)).content.decode()

        assert reverse("admin:durable_django_instance_change", args=[ours.pk]) in shown
        assert "payment" in shown
        assert "durable-running" in shown
        assert "theirs" not in shown
        assert "nobodys" not in shown

    def test_of_many_it_shows_the_latest_and_where_all_are(
        self, root: Client, inline: Any, group: Group
    ) -> None:
        for number in range(inline.most + 1):
            factories.make_instance(f"flow-{number:02}", **about(group))
        shown = root.get(url(group)).content.decode()
        assert "flow-00" not in shown
        assert f"flow-{inline.most:02}" in shown

        query = inline(Group, admin.site).list_query(group)
        assert f"{LIST}?{query}" in shown
        assert f"{inline.most + 1} orchestration instances" in root.get(f"{LIST}?{query}").content.decode()

    def test_the_object_is_saved_whatever_happens_to_them_meanwhile(
        self, root: Client, inline: Any, group: Group
    ) -> None:
        going = factories.make_instance("going", **about(group))
        page = root.get(url(group)).content.decode()
        prefix = page.split('-TOTAL_FORMS"')[0].rsplit('name="', 1)[1]
        going.delete()
        factories.make_instance("coming", **about(group))
        data = {"name": "renamed", f"{prefix}-TOTAL_FORMS": "0", f"{prefix}-INITIAL_FORMS": "0"}
        assert root.post(url(group), data).status_code == 302
        group.refresh_from_db()
        assert group.name == "renamed"

    def test_nothing_is_written_through_it(self, root: Client, inline: Any, group: Group) -> None:
        instance = factories.make_instance("ours", **about(group))
        page = root.get(url(group)).content.decode()
        prefix = page.split('-TOTAL_FORMS"')[0].rsplit('name="', 1)[1]
        data = {
            "name": "renamed",
            f"{prefix}-TOTAL_FORMS": "1",
            f"{prefix}-INITIAL_FORMS": "1",
            f"{prefix}-0-id": str(instance.pk),
            f"{prefix}-0-status": "5",
            f"{prefix}-0-DELETE": "on",
        }
        root.post(url(group), data)
        instance.refresh_from_db()
        assert instance.status == InstanceStatus.RUNNING

    def test_a_new_object_has_none(self, root: Client, inline: Any) -> None:
        shown = root.get(reverse("admin:auth_group_add"))
        assert shown.status_code == 200
        assert "durable-table" not in shown.content.decode()

    def test_a_new_object_that_has_a_key_by_default_has_none(
        self, root: Client, inline: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Group._meta.pk, "_get_default", lambda: 4711)
        url = reverse("admin:auth_group_add")
        for shown in (root.get(url), root.post(url, {"name": ""})):
            assert shown.status_code == 200
            assert "durable-table" not in shown.content.decode()

    def test_an_object_whose_key_is_too_long_to_be_a_subject_has_none(self, inline: Any) -> None:
        target = Group(pk="k" * 1000)
        target._state.adding = False
        assert inline(Group, admin.site).rows(target) == []

    def test_only_those_who_may_view_instances_see_it(
        self, staff: Callable[..., Client], inline: Any, group: Group
    ) -> None:
        factories.make_instance("ours", **about(group))
        for codenames, is_seen in [((), False), (("view_instance",), True)]:
            client = staff(*codenames)
            User.objects.latest("pk").user_permissions.add(Permission.objects.get(codename="change_group"))
            assert ("ours" in client.get(url(group)).content.decode()) is is_seen


class TestTheWayBack:
    def test_the_page_of_an_instance_links_to_what_it_is_about(self, root: Client, group: Group) -> None:
        instance = factories.make_instance("ours", **about(group))
        shown = root.get(reverse("admin:durable_django_instance_change", args=[instance.pk]))
        assert f'<a href="{url(group)}">Accounting &amp; Co</a>' in shown.content.decode()

    def test_whoever_may_not_see_the_object_sees_its_key_alone(
        self, staff: Callable[..., Client], group: Group
    ) -> None:
        instance = factories.make_instance("ours", **about(group))
        page = reverse("admin:durable_django_instance_change", args=[instance.pk])
        shown = staff("view_instance").get(page).content.decode()
        assert "Accounting" not in shown
        assert f"auth.group:{group.pk}" in shown

    @pytest.mark.parametrize("key", ["4711", "no number", ""])
    def test_an_object_that_is_gone_is_no_error(self, root: Client, key: str) -> None:
        instance = factories.make_instance("ours", subject_type="auth.group", subject_id=key)
        shown = root.get(reverse("admin:durable_django_instance_change", args=[instance.pk]))
        assert shown.status_code == 200
        assert f"auth.group:{key}" in shown.content.decode()

    def test_a_model_that_is_gone_is_no_error(self, root: Client) -> None:
        instance = factories.make_instance("ours", subject_type="gone.thing", subject_id="1")
        shown = root.get(reverse("admin:durable_django_instance_change", args=[instance.pk]))
        assert "gone.thing:1" in shown.content.decode()
