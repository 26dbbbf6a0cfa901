"""Somebody at a browser, who notices whatever goes wrong on a page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth.models import Permission, User
from django.test import Client
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Dialog, Page, Response

_REPORT = """
document.addEventListener("securitypolicyviolation", (event) => window.reportViolation(
  `${event.violatedDirective} ${event.blockedURI}, ${event.sourceFile}:${event.lineNumber} ${event.sample}`));
"""

_FAULTS_OF_DJANGO = (
    # Links without an underline beside text: those of the breadcrumbs, and the one that clears a search.
    ("link-in-text-block", ".breadcrumbs a"),
    ("link-in-text-block", "#changelist-search a"),
    # The search field's label is a picture; its alternative text is not seen.
    ("label-title-only", "#searchbar"),
)
_RUN_AXE = """async (known) => {
  const { violations } = await axe.run(document, { resultTypes: ["violations"] });
  const isKnown = (rule, node) => known.some(([id, selector]) =>
    id === rule.id && document.querySelector(node.target[0]).matches(selector));
  return violations.map((rule) => ({ ...rule, nodes: rule.nodes.filter((node) => !isKnown(rule, node)) }));
}"""


class Visitor:
    """One person in a browser window of their own, logged in.

    ``problems`` are all errors on the console and in scripts, violations of the policy, dialogs, and answers
    of the server that a test did not expect: those that are in ``expected`` are not among them.
    """

    def __init__(self, browser: Browser, server: str, user: User, **options: Any) -> None:
        self.problems: list[str] = []
        self.expected: tuple[str, ...] = ()
        self.server = server
        has_scripts = options.get("java_script_enabled", True)
        self.context: BrowserContext = browser.new_context(base_url=server, **options)
        self.context.set_default_timeout(15_000)
        self.context.add_cookies([_session(user, server)])
        if has_scripts:
            self.context.expose_binding("reportViolation", self._violation)
            self.context.add_init_script(_REPORT)
        self.context.on("console", self._console)
        self.context.on("weberror", lambda error: self._note(f"script error: {error.error}"))
        self.context.on("dialog", self._dialog)
        self.context.on("response", self._response)

    def page(self, path: str = "") -> Page:
        """Open a tab."""
        page = self.context.new_page()
        if path:
            page.goto(path)
        return page

    def close(self) -> None:
        """Close the window."""
        self.context.close()

    def _note(self, problem: str) -> None:
        # Browsers ask for an icon of their own accord, and the demo project has none.
        if "/favicon.ico" not in problem and not any(part in problem for part in self.expected):
            self.problems.append(problem)

    def _violation(self, source: Any, what: str) -> None:
        self._note(f"policy violated on {source['page'].url}: {what}")

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._note(f"console {message.type}: {message.text} ({message.location.get('url')})")

    def _dialog(self, dialog: Dialog) -> None:
        self._note(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _response(self, response: Response) -> None:
        if response.status >= 400:
            self._note(f"status {response.status}: {response.url}")


def make_user(*codenames: str, **fields: Any) -> User:
    """Return a new member of the staff with these of the app's permissions."""
    user = User.objects.create_user(f"user{User.objects.count()}", is_staff=True, **fields)
    found = Permission.objects.filter(content_type__app_label="durable_django", codename__in=codenames)
    assert found.count() == len(codenames)
    user.user_permissions.set(found)
    return user


def axe_violations(page: Page) -> list[str]:
    """Return the serious and critical faults that axe finds on a page, but for Django's own."""
    page.evaluate(_axe_source())
    found = page.evaluate(_RUN_AXE, [list(fault) for fault in _FAULTS_OF_DJANGO])
    return [
        f"{rule['impact']} {rule['id']}: {node['html'][:200]} {node['failureSummary']}"
        for rule in found
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]


def _axe_source() -> str:
    path = os.environ.get("AXE")
    if path is None:
        raise FileNotFoundError("AXE must name axe.min.js, which `npm install axe-core` brings.")
    return Path(path).read_text(encoding="utf-8")


def _session(user: User, server: str) -> Any:
    client = Client()
    client.force_login(user)
    name = settings.SESSION_COOKIE_NAME
    return {"name": name, "value": client.cookies[name].value, "url": server}
