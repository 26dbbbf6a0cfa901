"""Pages at their worst: full of markup, of thousands of events, in another language."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from django.urls import reverse
from playwright.sync_api import Page, expect

from durable_django.core import events
from durable_django.models import (
    Entity,
    EntityOperation,
    HistoryEvent,
    Instance,
    InstanceStatus,
    Worker,
)
from durable_django.store import clock
from durable_django.store.histories import event_columns
from tests import factories
from tests.browser.conftest import Visit
from tests.browser.places import ENTITIES, INDEX, LIST, START, WORKERS, entity_page, instance_page, start_form
from tests.factories import NOW

pytestmark = pytest.mark.django_db(transaction=True)

# Each breaks out of another context: text, an attribute, a script's text, a text area.
EVIL = (
    '<script>window.hit=1</script>"\'><img src=x onerror="window.hit=1;alert(1)">'
    '"><svg onload="window.hit=1"></script><script>window.hit=1</script>'
    "</textarea><img src=x onerror=window.hit=1></title></pre>{{ 7|add:7 }}"
)
# Names have at most 255 characters.
assert len(EVIL) < 250

# What our templates say in English, as far as it is not a German word, too.
ENGLISH = re.compile(
    r"\b(Running|Failed|Suspended|Terminated|Pending|Completed|Terminate|Suspend|Rewind|Restart|Purge|Cancel|"
    r"Backlog|Workers|Timeline|Failure|History|Event|Download|Input|Output|Reason|State|Stack|Turn|[Ww]aiting|"
    r"Start an|Send an|created|duration|queue|Custom|alive|silent|oldest|age|key|locked|heartbeat|attempt|"
    r"due in|Ended|Now|Longest|Activities|the log|or nothing)\b"
)


def make_evil_instance(instance_id: str, status: InstanceStatus, **fields: Any) -> Instance:
    instance = factories.make_instance(
        instance_id,
        status,
        name=EVIL,
        version=EVIL,
        queue=EVIL,
        input=json.dumps(EVIL),
        output=EVIL,
        custom_status=json.dumps({EVIL: EVIL}),
        waiting_for=[EVIL],
        tags={EVIL: EVIL},
        **fields,
    )
    factories.add_history(
        instance,
        events.TaskScheduledEvent(1, NOW, EVIL, input=EVIL),
        events.SubOrchestrationInstanceCreatedEvent(2, NOW, EVIL, EVIL),
        events.EventRaisedEvent(-1, NOW, EVIL, EVIL),
    )
    factories.make_activity(instance, 1, name=EVIL, lease_token=instance.pk, visible_at=clock.aware(NOW))
    return instance


def make_evil_rows() -> None:
    present = clock.aware(clock.now())
    running = make_evil_instance(f"1{EVIL}", InstanceStatus.RUNNING)
    failure = json.dumps({"type": EVIL, "message": EVIL, "stack": EVIL})
    make_evil_instance(f"2{EVIL}", InstanceStatus.FAILED, failure=failure, completed_at=present)
    factories.make_child(running, f"3{EVIL}", 2, name=EVIL)
    Entity.objects.create(
        name="account", key=EVIL, state=json.dumps(EVIL), lock_instance=running, last_modified_at=present
    )
    EntityOperation.objects.create(
        name="account", key=EVIL, kind=1, operation=EVIL, created_at=present, visible_at=present
    )
    Worker.objects.create(
        identity="w",
        name=EVIL,
        host=EVIL,
        pid=1,
        queues=[EVIL],
        started_at=present,
        last_heartbeat_at=present,
    )


def expect_harmless(page: Page) -> None:
    """Expect that the markup is there, as text alone."""
    expect(page.locator("body")).to_contain_text("window.hit=1")
    assert page.evaluate("window.hit") is None
    expect(page.locator("img[src=x], svg[onload], [onerror]")).to_have_count(0)
    expect(page.locator("script", has_text="window.hit")).to_have_count(0)


def test_markup_does_nothing(visit: Visit) -> None:
    make_evil_rows()
    # Without the policy, which would stop what the pages let through.
    page = visit(bypass_csp=True).page()
    running, failed = f"1{EVIL}", f"2{EVIL}"
    for path in (
        LIST,
        f"{LIST}?name={EVIL.replace('&', '%26')}",
        instance_page(running),
        instance_page(failed),
        instance_page(running, "event"),
        instance_page(running, "act", "terminate"),
        INDEX,
        ENTITIES,
        entity_page("account"),
        entity_page("account", "signal"),
        WORKERS,
        instance_page(running, "payload", "output"),
    ):
        page.goto(path)
        expect_harmless(page)


def test_markup_does_nothing_when_a_page_renews_itself(visit: Visit) -> None:
    make_evil_rows()
    visitor = visit(bypass_csp=True)
    for path in (instance_page(f"1{EVIL}"), INDEX):
        page = visitor.page(path)
        page.locator("#durable-live").evaluate("(element) => { element.dataset.isOld = 'yes'; }")
        expect(page.locator("[data-is-old]")).to_have_count(0)
        expect_harmless(page)


def test_markup_in_forms_does_nothing(visit: Visit) -> None:
    make_evil_rows()
    page = visit(bypass_csp=True).page(instance_page(f"1{EVIL}", "event"))
    page.get_by_label("Event").fill(f"@{EVIL}")
    page.get_by_label("Data").fill(EVIL)
    page.get_by_label("Reason").fill(EVIL)
    page.get_by_role("button", name="Send an event").click()
    expect(page.get_by_label("Data")).to_have_value(EVIL)
    expect(page.locator(".errorlist").first).to_be_visible()
    assert page.evaluate("window.hit") is None

    page.goto(instance_page(f"1{EVIL}", "act", "terminate"))
    page.get_by_label("Reason").fill(EVIL)
    page.get_by_role("button", name="Terminate").click()
    expect_harmless(page)
    for path in (instance_page(f"1{EVIL}", "history"), reverse("admin:index")):
        page.goto(path)
        expect_harmless(page)

    page.goto(LIST)
    for box in page.locator("input.action-select").all():
        box.check()
    page.locator("select[name=action]").select_option("Restart")
    page.get_by_role("button", name="Go").click()
    expect(page.get_by_text("This is done to")).to_be_visible()
    expect_harmless(page)


def test_a_long_history_opens_fast_page_by_page(visit: Visit) -> None:
    instance = factories.make_instance("long")
    happened = [
        event
        for number in range(1, 2501)
        for event in (
            events.TaskScheduledEvent(number, NOW, f"step {number}", input=json.dumps("x" * 1000)),
            events.TaskCompletedEvent(-1, NOW, number, json.dumps("y" * 1000)),
        )
    ]
    columns = [event_columns(event) for event in happened]
    HistoryEvent.objects.bulk_create(
        HistoryEvent(
            instance=instance,
            execution_id=instance.execution_id,
            sequence=instance.next_sequence + number,
            timestamp=clock.aware(NOW),
            turn=1 + number // 2,
            kind=kind,
            task_id=task_id,
            name=name,
            data=data,
            attributes=attributes,
        )
        for number, (kind, task_id, name, data, attributes) in enumerate(columns)
    )
    instance.next_sequence += len(happened)
    instance.save()

    page = visit().page(instance_page("long"))
    took = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    assert 0 < took < 3000
    history = page.get_by_role("region", name="History")
    expect(history.locator("tbody tr")).to_have_count(100)
    expect(history).to_contain_text("5001 events")
    expect(page.locator(".durable-bar")).to_have_count(200)
    history.get_by_role("link", name="Later events").click()
    expect(history.locator("tbody tr").first.locator("td").first).to_have_text("100")
    expect(history.locator("tbody tr")).to_have_count(100)
    page.goto(f"{instance_page('long')}?after=4999")
    expect(history.locator("tbody tr")).to_have_count(1)
    expect(history.get_by_role("link", name="Later events")).to_have_count(0)


def test_a_violation_of_the_policy_would_be_seen(visit: Visit) -> None:
    visitor = visit()
    page = visitor.page(INDEX)
    page.evaluate(
        "() => { const script = document.createElement('script'); script.textContent = 'window.hit = 1';"
        " document.body.append(script); }"
    )
    assert page.evaluate("window.hit") is None
    assert [problem for problem in visitor.problems if problem.startswith("policy violated")]
    visitor.problems.clear()


def test_pages_speak_german(visit: Visit) -> None:
    make_german_rows()
    page = visit(locale="de-DE", viewport={"width": 1280, "height": 900}).page()
    for path, word in (
        (INDEX, "Angehalten"),
        (LIST, "Fehlgeschlagen"),
        (instance_page("bestellung"), "freigabe"),
        (instance_page("kaputt"), "Zurückspulen"),
        (START, "gestartet"),
        (start_form("approve_order"), "Eingabe"),
        (instance_page("bestellung", "event"), "Ereignis"),
        (instance_page("bestellung", "act", "terminate"), "Abbrechen"),
        (ENTITIES, "lager"),
        (entity_page("lager"), "Zustand"),
        (WORKERS, "presse"),
    ):
        page.goto(path)
        assert page.locator("html").get_attribute("lang") == "de"
        content = page.locator("#content")
        shown = content.inner_text()
        assert word in shown, (path, shown)
        assert not ENGLISH.findall(shown), (path, shown)
        expect_no_overflow(page)


def expect_no_overflow(page: Page) -> None:
    """Expect that the page is no wider than its window."""
    wide, window = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= window


def make_german_rows() -> None:
    present = clock.aware(clock.now())
    running = factories.make_instance("bestellung", waiting_for=["freigabe"], input='{"a": 1}')
    factories.make_activity(running, 1, name="packen", lease_token=1, visible_at=present)
    factories.make_timer(running, 2)
    factories.make_instance("kaputt", InstanceStatus.FAILED, completed_at=present)
    Entity.objects.create(name="lager", key="7", state="1", last_modified_at=present)
    Worker.objects.create(
        identity="w", name="presse", host="hier", pid=1, started_at=present, last_heartbeat_at=present
    )
