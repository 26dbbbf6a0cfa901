"""The admin of instances: what it shows, to whom, and what can be done there."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from enum import Enum
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.urls import reverse

from durable_django.admin import forms
from durable_django.client.steering import ACTIONS
from durable_django.core import events
from durable_django.core.events import TaskScheduledEvent
from durable_django.core.registry import default_registry
from durable_django.models import Instance, InstanceStatus, Message
from durable_django.store import clock
from tests import factories
from tests.factories import NOW

pytestmark = pytest.mark.django_db

LIST = reverse("admin:durable_django_instance_changelist")
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


def page(instance: Instance) -> str:
    return reverse("admin:durable_django_instance_change", args=[instance.pk])


def act(instance: Instance, action: str) -> str:
    return reverse("admin:durable_django_instance_act", args=[instance.pk, action])


def text(response: Any) -> str:
    assert response.status_code == 200, response.content
    return str(response.content.decode())


def status_of(instance: Instance) -> InstanceStatus:
    return InstanceStatus(Instance.objects.get(pk=instance.pk).status)


class TestTheList:
    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("", {"a1", "a2", "b1", "b2"}),
            ("q=a", {"a1", "a2"}),
            ("q=customer%3D7", {"b1"}),
            ("q=nobody", set()),
            ("q=%00", {"a1", "a2", "b1", "b2"}),
            ("status=3", {"a2"}),
            ("name=other", {"b1"}),
            ("queue=slow", {"a1"}),
            ("version=2", {"a2"}),
            ("version=3", set()),
            ("tag=customer%3D7", {"b1"}),
            ("tag=customer%3D", set()),
            ("tag=customer", set()),
            ("tag=a%3Db%3Dc%3Dd", {"b2"}),
            ("tag=a%3Db%3Dc%3D", set()),
            ("q=a%3Db%3Dc%3Dd", {"b2"}),
            ("tag=" + "%3D" * 999, set()),
            ("tag=%00", set()),
            ("subject=auth.user%3A4711", {"a1"}),
            ("subject=auth.group%3A4711", set()),
            ("subject=no.such%3A4711", set()),
            ("subject=4711", set()),
            ("q=auth.user%3A4711", {"a1"}),
            ("q=Auth.User%3A4711", {"a1"}),
            ("q=4711", {"a1"}),
            ("q=471", set()),
            ("q=A", set()),
            ("completed_at__isnull=False", {"a2"}),
            ("created_at__gte=2026-01-02T00:00Z&created_at__lt=2026-01-03T00:00Z", {"a1", "a2", "b1", "b2"}),
            ("created_at__gte=2026-01-03T00:00Z&created_at__lt=2026-01-04T00:00Z", set()),
        ],
    )
    def test_it_is_searched_and_filtered(self, root: Client, query: str, expected: set[str]) -> None:
        factories.make_instance("a1", queue="slow", subject_type="auth.user", subject_id="4711")
        factories.make_instance("a2", InstanceStatus.FAILED, version="2")
        factories.make_instance("b1", name="other", tags={"customer": "7"})
        factories.make_instance("b2", name="another", tags={"a=b": "c=d"})
        found = root.get(f"{LIST}?{query}").context["cl"].result_list
        assert {instance.instance_id for instance in found} == expected

    def test_those_that_ended_within_some_time_come_in_the_order_of_their_ends(self, root: Client) -> None:
        for name, hours in [("b", 2), ("c", 1), ("a", 3)]:
            at = clock.aware(NOW + timedelta(hours=hours))
            factories.make_instance(name, InstanceStatus.COMPLETED, completed_at=at)
        found = root.get(f"{LIST}?completed_at__gte=2026-01-02T00:00Z").context["cl"].result_list
        assert [instance.instance_id for instance in found] == ["a", "b", "c"]

    def test_versions_and_tags_of_the_latest_are_offered(self, root: Client) -> None:
        factories.make_instance("a", version="1.5", tags={"customer": "7"})
        factories.make_instance("b", version="2.0", tags={"customer": "7", "region": "north"})
        shown = text(root.get(LIST))
        for query in ("version=1.5", "version=2.0", "tag=customer%3D7", "tag=region%3Dnorth"):
            assert f"?{query}" in shown

    def test_it_asks_few_queries_and_no_payloads(
        self, root: Client, django_assert_max_num_queries: Any
    ) -> None:
        for number in range(60):
            factories.make_instance(f"i{number}", waiting_for=["go"], input="1")
        with django_assert_max_num_queries(8) as queries:
            shown = text(root.get(LIST))
        assert "i59" in shown
        assert not any('"output"' in query["sql"] for query in queries)

    def test_choices_are_not_counted(self, root: Client, django_assert_max_num_queries: Any) -> None:
        factories.make_instance("i")
        with django_assert_max_num_queries(8) as queries:
            shown = text(root.get(f"{LIST}?_facets=True"))
        assert "Show counts" not in shown
        assert not any("COUNT(CASE" in query["sql"] for query in queries)

    def test_nobody_adds_changes_or_deletes_rows(self, root: Client) -> None:
        instance = factories.make_instance("i")
        assert root.get(reverse("admin:durable_django_instance_add")).status_code == 403
        assert (
            root.post(reverse("admin:durable_django_instance_delete", args=[instance.pk])).status_code == 403
        )
        root.post(page(instance), {"status": 1})
        assert status_of(instance) == InstanceStatus.RUNNING


class TestThePage:
    def test_it_tells_what_the_instance_waits_for(self, root: Client) -> None:
        instance = factories.make_instance(
            "order-42",
            waiting_for=["approval"],
            input='{"a": 1}',
            custom_status='"step 2"',
            tags={"customer": "7"},
        )
        factories.make_timer(instance, 3, NOW + timedelta(days=36500))
        child = factories.make_child(instance, "child", 4)
        shown = text(root.get(page(instance)))
        for part in (
            "order-42",
            "approval",
            "timer due in",
            "&quot;a&quot;: 1",
            "step 2",
            "customer",
            page(child),
        ):
            assert part in shown
        assert "durable_django/live.js" in shown

    def test_a_failure_is_shown_with_its_stack(self, root: Client) -> None:
        failure = {"type": "builtins.ValueError", "message": "no money", "stack": "Traceback: line 7"}
        instance = factories.make_instance("i", InstanceStatus.FAILED, failure=json.dumps(failure))
        shown = text(root.get(page(instance)))
        for part in ("builtins.ValueError", "no money", "Traceback: line 7"):
            assert part in shown
        assert "live.js" not in shown

    @pytest.mark.parametrize("stored", ["{broken", "", "[1]", "null"])
    def test_a_failure_that_cannot_be_read_is_shown_as_it_is(self, root: Client, stored: str) -> None:
        instance = factories.make_instance("i", InstanceStatus.FAILED, failure=stored)
        assert f"<pre>{stored}</pre>" in text(root.get(page(instance)))

    def test_markup_does_nothing(self, root: Client) -> None:
        instance = factories.make_instance(
            EVIL,
            InstanceStatus.FAILED,
            name=EVIL,
            version=EVIL,
            queue=EVIL,
            input=json.dumps(EVIL),
            output=EVIL,
            custom_status=json.dumps({EVIL: EVIL}),
            waiting_for=[EVIL],
            tags={EVIL: EVIL},
            failure=json.dumps({"type": EVIL, "message": EVIL, "stack": EVIL}),
        )
        factories.add_history(
            instance,
            TaskScheduledEvent(1, NOW, EVIL, input=EVIL),
            events.EventRaisedEvent(-1, NOW, EVIL, EVIL),
        )
        factories.make_child(instance, f"{EVIL}2", 2, name=EVIL)
        for url in (LIST, page(instance), act(instance, "restart"), f"{LIST}?q={EVIL}"):
            shown = text(root.get(url))
            assert "<script>alert" not in shown
            assert "<img src=x" not in shown

    @pytest.mark.parametrize("name", ["items", "keys", "0", "a.b", ""])
    def test_tags_of_any_name_are_shown(self, root: Client, name: str) -> None:
        instance = factories.make_instance(tags={name: "its value"})
        assert f"<dt>{name}</dt><dd>its value</dd>" in text(root.get(page(instance)))

    def test_a_whole_payload_is_plain_text(self, root: Client) -> None:
        instance = factories.make_instance("i", input=json.dumps("x" * 5000 + EVIL))
        assert "All of it" in text(root.get(page(instance)))
        response = root.get(reverse("admin:durable_django_instance_payload", args=[instance.pk, "input"]))
        assert response["Content-Type"].startswith("text/plain")
        assert response["X-Content-Type-Options"] == "nosniff"
        assert text(response).endswith('alert(1)>"')

    @pytest.mark.parametrize("stored", ['"\\ud800"', "1e999", "NaN", "no json"])
    def test_whatever_a_converter_has_stored_is_shown(self, root: Client, stored: str) -> None:
        instance = factories.make_instance("i", input=stored, output=stored)
        assert stored.strip('"') in text(root.get(page(instance)))

    @pytest.mark.parametrize("depth", range(800, 1600, 100))
    def test_a_deep_payload_is_shown(self, root: Client, depth: int) -> None:
        instance = factories.make_instance("i", input="[" * depth + "]" * depth)
        assert "[" in text(root.get(page(instance)))

    @pytest.mark.parametrize("use_tz", [True, False])
    def test_all_times_are_in_the_zone_of_the_site(self, root: Client, settings: Any, use_tz: bool) -> None:
        settings.USE_TZ, settings.TIME_ZONE = use_tz, "Asia/Kolkata"
        instance = factories.make_instance("i")
        factories.add_history(instance, TaskScheduledEvent(1, NOW, "charge"))
        shown = text(root.get(page(instance)))
        assert "8:34 a.m." in shown  # of the instance
        assert '<td role="cell" class="nowrap">2026-01-02 08:34:05</td>' in shown  # of its history
        assert "charge: 08:34:05" in shown  # of the timeline
        assert "03:04" not in shown

    def test_a_long_history_is_shown_page_by_page(
        self, root: Client, django_assert_max_num_queries: Any
    ) -> None:
        instance = factories.make_instance("i")
        for number in range(1, 121):
            factories.add_history(instance, TaskScheduledEvent(number, NOW, f"step{number}"))
        with django_assert_max_num_queries(14):
            first = text(root.get(page(instance)))
        assert "?after=99" in first
        assert '<tr role="row"><td role="cell">100</td>' not in first
        second = text(root.get(f"{page(instance)}?after=99"))
        assert '<tr role="row"><td role="cell">100</td>' in second
        assert "Later events" not in second

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("", ["ExecutionStarted", *["TaskScheduled", "TaskFailed"] * 2, "TimerCreated", "EventRaised"]),
            ("?kind=activity", ["TaskScheduled", "TaskFailed"] * 2),
            ("?kind=failure", ["TaskFailed"] * 2),
            ("?kind=timer", ["TimerCreated"]),
            ("?kind=event", ["EventRaised"]),
            ("?kind=child", []),
            ("?task=2", ["TaskScheduled", "TaskFailed"]),
            ("?task=2&kind=failure", ["TaskFailed"]),
            ("?task=9", []),
            ("?kind=nonsense&task=x&after=-", None),
        ],
    )
    def test_the_history_is_filtered(self, root: Client, query: str, expected: list[str] | None) -> None:
        instance = factories.make_instance("i")
        for task in (1, 2):
            factories.add_history(
                instance,
                TaskScheduledEvent(task, NOW, name="pay"),
                events.TaskFailedEvent(-1, NOW, task_scheduled_id=task, failure_details=factories.FAILURE),
            )
        factories.add_history(instance, events.TimerCreatedEvent(3, NOW, fire_at=NOW))
        factories.add_history(instance, events.EventRaisedEvent(-1, NOW, name="go"))

        context = root.get(page(instance) + query).context
        types = [event["type"] for event in context["events"]]
        assert types == expected if expected is not None else len(types) == 7

    def test_a_filter_stays_from_page_to_page(self, root: Client) -> None:
        instance = factories.make_instance("i")
        factories.add_history(instance, *(TaskScheduledEvent(n, NOW, name="pay") for n in range(150)))
        context = root.get(page(instance) + "?kind=activity").context
        assert (len(context["events"]), context["next"]) == (100, "?kind=activity&after=100#history")
        context = root.get(page(instance) + "?kind=activity&after=100").context
        assert (len(context["events"]), context["next"]) == (50, None)
        assert context["first"] == "?kind=activity#history"

    def test_of_long_payloads_the_history_reads_the_beginning(self, root: Client) -> None:
        instance = factories.make_instance("i")
        long = json.dumps("x" * 100_000)
        factories.add_history(instance, events.EventRaisedEvent(-1, NOW, name="go", input=long))
        assert len(text(root.get(page(instance)))) < 60_000
        assert "x" * 100_000 in text(
            root.get(reverse("admin:durable_django_instance_history_json", args=[instance.pk]))
        )

    def test_the_history_is_downloaded(self, root: Client) -> None:
        instance = factories.make_instance("i")
        url = reverse("admin:durable_django_instance_history_json", args=[instance.pk])
        (event,) = json.loads(text(root.get(url)))
        assert (event["sequence"], event["type"], event["name"]) == (0, "ExecutionStartedEvent", "flow")

    @pytest.mark.parametrize("key", ["0", "999999", "x", "9" * 30, "%00"])
    def test_the_missing_are_not_found(self, root: Client, key: str) -> None:
        assert root.get(f"{LIST}{key}/change/").status_code == 404


class TestActions:
    @pytest.mark.parametrize("action", ACTIONS)
    @pytest.mark.parametrize("status", InstanceStatus)
    def test_a_button_is_there_where_the_status_allows_it(
        self, root: Client, action: str, status: InstanceStatus
    ) -> None:
        instance = factories.make_instance("i", status)
        allowed = status.value in {one.value for one in ACTIONS[action].statuses}
        assert (act(instance, action) in text(root.get(page(instance)))) == allowed

    def test_each_needs_its_own_permission(self, staff: Callable[..., Client]) -> None:
        instance = factories.make_instance("i")
        onlooker, terminator = staff("view_instance"), staff("view_instance", "terminate")
        assert "/act/" not in text(onlooker.get(page(instance)))
        for action in ACTIONS:
            assert onlooker.get(act(instance, action)).status_code == 403
            assert onlooker.post(act(instance, action)).status_code == 403
        assert (
            onlooker.get(reverse("admin:durable_django_instance_event", args=[instance.pk])).status_code
            == 403
        )
        assert onlooker.get(reverse("admin:durable_django_instance_start")).status_code == 403
        assert status_of(instance) == InstanceStatus.RUNNING
        assert "/act/terminate/" in text(terminator.get(page(instance)))
        assert terminator.post(act(instance, "suspend")).status_code == 403
        assert terminator.post(act(instance, "terminate"), {"reason": "why"}).status_code == 302
        assert status_of(instance) == InstanceStatus.TERMINATED

    def test_nobody_sees_anything_without_a_permission(self, staff: Callable[..., Client]) -> None:
        instance = factories.make_instance("i")
        nobody = staff()
        assert nobody.get(LIST).status_code == 403
        assert nobody.get(page(instance)).status_code == 403
        assert nobody.get(act(instance, "terminate")).status_code == 403

    def test_what_is_done_is_logged_with_its_reason(self, root: Client) -> None:
        instance = factories.make_instance("i")
        body = {"reason": "too late", "output": '{"by": "me"}'}
        assert root.post(act(instance, "terminate"), body).status_code == 302
        assert Instance.objects.get().output == '{"by": "me"}'
        assert "too late" in LogEntry.objects.get().change_message

    def test_the_log_has_the_event_in_its_own_case(self, root: Client) -> None:
        url = reverse("admin:durable_django_instance_event", args=[factories.make_instance("i").pk])
        assert root.post(url, {"name": "OrderPaid", "reason": "Seen"}).status_code == 302
        assert LogEntry.objects.get().change_message == "Sent event 'OrderPaid': Seen"

    def test_the_page_leads_to_what_was_done(self, root: Client) -> None:
        instance = factories.make_instance("i")
        root.post(act(instance, "suspend"), {"reason": "customer asked"})
        trail = reverse("admin:durable_django_instance_history", args=[instance.pk])
        assert trail in text(root.get(page(instance)))
        assert "Suspended: customer asked" in text(root.get(trail))

    def test_a_status_that_has_changed_meanwhile_is_told(self, root: Client) -> None:
        instance = factories.make_instance("i", InstanceStatus.COMPLETED)
        assert "cannot be suspended" in text(root.post(act(instance, "suspend"), {}))
        assert not LogEntry.objects.exists()

    def test_an_event_is_sent_once_it_is_json(self, root: Client) -> None:
        instance = factories.make_instance("i", waiting_for=["approval"])
        url = reverse("admin:durable_django_instance_event", args=[instance.pk])
        assert 'value="approval"' in text(root.get(url))
        assert "This is no JSON" in text(root.post(url, {"name": "approval", "data": "{"}))
        ended = factories.make_instance("ended", InstanceStatus.COMPLETED)
        at_ended = reverse("admin:durable_django_instance_event", args=[ended.pk])
        assert "It has ended" in text(root.post(at_ended, {"name": "approval"}))
        assert root.post(url, {"name": "approval", "data": '{"a": 1}'}).status_code == 302
        message = Message.objects.get()
        assert (message.name, message.data) == ("approval", '{"a": 1}')

    def test_an_order_is_started_from_its_skeleton(self, root: Client) -> None:
        assert "approve_order" in text(root.get(reverse("admin:durable_django_instance_start")))
        url = reverse("admin:durable_django_instance_start_one", args=["approve_order"])
        assert "&quot;customer&quot;" in text(root.get(url))
        response = root.post(url, {"instance_id": "order-1", "input": '{"number": 1}', "reason": "by hand"})
        instance = Instance.objects.get(instance_id="order-1")
        assert response["Location"] == page(instance)
        assert (instance.name, instance.input) == ("approve_order", '{"number": 1}')
        assert "already" in text(root.post(url, {"instance_id": "order-1", "input": ""}))

    def test_an_enum_without_members_has_an_empty_skeleton(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(forms, "input_hint", lambda fn: Enum("Nothing", {}))
        assert forms.skeleton(next(iter(default_registry.orchestrators))) == "null"

    def test_the_selected_are_confirmed_first(self, root: Client) -> None:
        first, second = factories.make_instance("a"), factories.make_instance("b", InstanceStatus.COMPLETED)
        body: dict[str, Any] = {"action": "terminate_selected", "_selected_action": [first.pk, second.pk]}
        asked = text(root.post(LIST, body))
        assert "1 other is in a status" in asked
        assert status_of(first) == InstanceStatus.RUNNING
        root.post(LIST, {**body, "confirmed": "1", "reason": "all of them"})
        assert (status_of(first), status_of(second)) == (InstanceStatus.TERMINATED, InstanceStatus.COMPLETED)
        assert "all of them" in LogEntry.objects.get().change_message

    def test_an_event_is_sent_to_all_selected(self, staff: Callable[..., Client], root: Client) -> None:
        waiting = [factories.make_instance(f"i{number}", waiting_for=["go"]) for number in range(2)]
        ended = factories.make_instance("ended", InstanceStatus.COMPLETED)
        chosen = {"_selected_action": [one.pk for one in (*waiting, ended)], "action": "event_selected"}

        assert "1 other is in a status" in text(root.post(LIST, chosen))
        wrong = root.post(LIST, chosen | {"confirmed": "1", "name": "go", "data": "{"})
        assert "This is no JSON" in text(wrong)
        assert not Message.objects.exists()

        given = {"confirmed": "1", "name": "go", "data": '{"by": "root"}', "reason": "all at once"}
        assert root.post(LIST, chosen | given).status_code == 302
        sent = Message.objects.order_by("instance_id").values_list("instance_id", "name", "data")
        assert list(sent) == [(one.pk, "go", '{"by": "root"}') for one in waiting]
        assert LogEntry.objects.filter(change_message__contains="all at once").count() == 2

    def test_an_event_in_bulk_needs_its_permission(self, staff: Callable[..., Client]) -> None:
        instance = factories.make_instance("i", waiting_for=["go"])
        chosen = {
            "_selected_action": [instance.pk],
            "action": "event_selected",
            "confirmed": "1",
            "name": "go",
        }
        client = staff("view_instance", "terminate")
        assert "event_selected" not in text(client.get(LIST))
        client.post(LIST, chosen)
        assert not Message.objects.exists()
