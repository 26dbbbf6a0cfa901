"""The documentation says what the code does, as far as a table, a link or a code block can be checked."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import load_command_class

from durable_django import checks, conf
from durable_django.core import registry as registries
from durable_django.core.registry import Registry
from tests.documents import ROOT, blocks

DOCUMENTS = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")),
]
EXECUTED = [
    "docs/guide.md",
    "docs/operations.md",
    "docs/testing.md",
    "docs/migrating.md",
    "docs/rest.md",
    "docs/admin.md",
    "docs/django_q.md",
]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry that the decorators fill instead of the app-wide one."""
    registry = Registry()
    monkeypatch.setattr(registries, "default_registry", registry)
    return registry


@pytest.mark.parametrize("document", EXECUTED)
def test_code_blocks_run(document: str, own_registry: Registry) -> None:
    namespace: dict[str, Any] = {"__name__": document}
    for block in blocks(document):
        if block.language == "python":
            code = "\n" * (block.line - 1) + block.code
            exec(compile(code, ROOT / document, "exec", dont_inherit=True), namespace)
    assert own_registry.problems == ()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        linked = (ROOT / document).parent / path if path else ROOT / document
        assert linked.is_file(), target
        assert not anchor or anchor in _anchors(linked.read_text()), target


def _anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_settings_and_their_defaults() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| (.*?) \|", OPERATIONS, re.MULTILINE)
    defaults = {name: text.strip("`") for name, text in rows}
    assert list(defaults) == list(conf.Settings.__slots__)
    assert defaults.pop("MAX_CONCURRENT_ACTIVITIES") == "100 per CPU"
    shown = {name: eval(text, {"timedelta": timedelta}) for name, text in defaults.items()}
    assert shown == {name: getattr(conf.Settings(), name) for name in shown}


def test_checks() -> None:
    documented = re.findall(r"^\| `durable_django\.(\w+)` \|", OPERATIONS, re.MULTILINE)
    assert documented == list(checks.CHECKS)


def test_options_of_durable_worker() -> None:
    command = load_command_class("durable_django", "durable_worker")
    parser = command.create_parser("manage.py", "durable_worker")
    own = {action for action in parser._actions if action.help != "==SUPPRESS=="}
    options = {option for action in own for option in action.option_strings if option.startswith("--")}
    inherited = {"--help", "--version", "--settings", "--pythonpath", "--traceback", "--no-color"}
    inherited |= {"--force-color", "--skip-checks"}
    documented = set(re.findall(r"`(--[a-z-]+)", OPERATIONS))
    assert options - inherited <= documented
    assert {option for option in documented if option not in options} <= {"--database"}
