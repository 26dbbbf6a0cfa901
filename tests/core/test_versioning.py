from __future__ import annotations

import pytest

from durable_django.core.versioning import (
    VersionFailureStrategy,
    VersioningOptions,
    VersionMatchStrategy,
    accepts,
    compare_versions,
    version_mismatch,
)


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("1.9", "1.10"),
        ("1.0rc1", "1.0"),
        ("2.0", "10.0"),
        (None, "0"),
        ("", "0.0.1"),
        ("blue", "green"),
        ("1.0", "green"),
    ],
)
def test_older_and_newer(older: str | None, newer: str | None) -> None:
    assert compare_versions(older, newer) == -1
    assert compare_versions(newer, older) == 1


@pytest.mark.parametrize(("a", "b"), [("1.0", "1.0.0"), (None, None), (None, ""), ("blue", "blue")])
def test_equal_versions(a: str | None, b: str | None) -> None:
    assert compare_versions(a, b) == compare_versions(b, a) == 0


def test_by_default_every_version_is_taken() -> None:
    options = VersioningOptions(version="2.0")

    assert options.match_strategy is VersionMatchStrategy.NONE
    assert options.failure_strategy is VersionFailureStrategy.REJECT
    for version in (None, "1.0", "2.0", "3.0"):
        assert accepts(options, version)
        assert accepts(None, version)


@pytest.mark.parametrize(
    ("strategy", "taken"),
    [
        (VersionMatchStrategy.STRICT, ["2.0", "2.0.0"]),
        (VersionMatchStrategy.CURRENT_OR_OLDER, [None, "1.0", "2.0", "2.0.0"]),
    ],
)
def test_what_a_strategy_takes(strategy: VersionMatchStrategy, taken: list[str | None]) -> None:
    options = VersioningOptions(version="2.0", match_strategy=strategy)

    assert [v for v in (None, "1.0", "2.0", "2.0.0", "2.1") if accepts(options, v)] == taken


def test_a_strict_worker_without_a_version_takes_what_has_none() -> None:
    options = VersioningOptions(match_strategy=VersionMatchStrategy.STRICT)

    assert accepts(options, None)
    assert not accepts(options, "1.0")


def test_a_mismatch_names_both_versions() -> None:
    strict = VersioningOptions(version="2.0", match_strategy=VersionMatchStrategy.STRICT)
    older = VersioningOptions(version="2.0", match_strategy=VersionMatchStrategy.CURRENT_OR_OLDER)

    assert version_mismatch(strict, None) == (
        "The orchestration's version (none) is not the worker's version '2.0'."
    )
    assert version_mismatch(older, "3.0") == (
        "The orchestration's version '3.0' is newer than the worker's version '2.0'."
    )
    assert version_mismatch(older, "1.0") is None


@pytest.mark.parametrize("field", ["match_strategy", "failure_strategy"])
def test_a_strategy_of_the_wrong_type_is_refused_by_name(field: str) -> None:
    with pytest.raises(TypeError, match=field):
        VersioningOptions(**{field: "strict"})  # type: ignore[arg-type]
