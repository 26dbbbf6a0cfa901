"""What operators do to orchestrations that a real worker is running: through the client, at once."""

from __future__ import annotations

from collections.abc import Generator
from datetime import timedelta
from typing import Any

import pytest

from durable_django import task
from durable_django.client import (
    OrchestrationAlreadyExistsError,
    OrchestrationIdReusePolicy,
    OrchestrationNotFoundError,
    OrchestrationStateConflictError,
    OrchestrationStatus,
)
from durable_django.history import (
    ExecutionRewoundEvent,
    ExecutionStartedEvent,
    SubOrchestrationInstanceCreatedEvent,
    TaskCompletedEvent,
    TaskFailedEvent,
    TaskScheduledEvent,
    TimerCreatedEvent,
)
from durable_django.worker import (
    ActivityWorkItemFilter,
    OrchestrationWorkItemFilter,
    OrchestratorNotRegisteredError,
    VersionFailureStrategy,
    VersioningOptions,
    VersionMatchStrategy,
    WorkItemFilters,
)
from tests.acceptance.conftest import TIMEOUT, Machine, Stage, eventually, listener, started

Context = task.OrchestrationContext
Steps = Generator[Any, Any, Any]

COMPLETED = OrchestrationStatus.COMPLETED
FAILED = OrchestrationStatus.FAILED
PENDING = OrchestrationStatus.PENDING
RUNNING = OrchestrationStatus.RUNNING
SUSPENDED = OrchestrationStatus.SUSPENDED
TERMINATED = OrchestrationStatus.TERMINATED


def parent(ctx: Context, children: int) -> Steps:
    calls = [
        ctx.call_sub_orchestrator(listener, input="go", instance_id=f"{ctx.instance_id}-{number}")
        for number in range(children)
    ]
    return (yield task.when_all(calls))


def execution(stage: Stage, instance_id: str) -> str:
    (event,) = (e for e in stage.history(instance_id) if isinstance(e, ExecutionStartedEvent))
    assert event.orchestration_instance is not None
    assert event.orchestration_instance.execution_id is not None
    return event.orchestration_instance.execution_id


class TestSuspend:
    def test_everything_waits_until_it_is_resumed(self, stage: Stage, machine: Machine) -> None:
        def flow(ctx: Context, _: None) -> Steps:
            event = ctx.wait_for_external_event("go")
            timer = ctx.create_timer(timedelta(milliseconds=50))
            return (yield task.when_all([ctx.call_activity("slow", input="x"), event, timer]))

        stage.worker([flow, listener], machine.activities)
        instance_id = started(stage, flow)
        eventually(lambda: machine.runs == ["x"])
        stage.client.suspend_orchestration(instance_id)
        assert stage.status(instance_id) is SUSPENDED
        machine.gate.set()
        stage.client.raise_orchestration_event(instance_id, "go", data=1)
        # Whoever comes later is served, so that the rest has been passed over.
        other = stage.start(listener, "now")
        stage.client.raise_orchestration_event(other, "now")
        stage.end(other)
        assert stage.status(instance_id) is SUSPENDED
        assert not any(isinstance(event, TaskCompletedEvent) for event in stage.history(instance_id))
        stage.client.resume_orchestration(instance_id)
        assert stage.output(instance_id) == ["X", 1, None]

    def test_resuming_a_running_one_does_nothing(self, stage: Stage) -> None:
        stage.worker([listener])
        instance_id = started(stage, listener, "go")
        stage.client.resume_orchestration(instance_id)
        stage.client.raise_orchestration_event(instance_id, "go", data=1)
        assert stage.output(instance_id) == 1

    def test_a_pending_one(self, stage: Stage) -> None:
        instance_id = stage.start(listener, "go")
        stage.client.suspend_orchestration(instance_id)
        stage.worker([listener])
        stage.client.raise_orchestration_event(instance_id, "go", data=1)
        other = stage.start(listener, "now")
        stage.client.raise_orchestration_event(other, "now")
        stage.end(other)
        assert stage.status(instance_id) is SUSPENDED
        stage.client.resume_orchestration(instance_id)
        assert stage.output(instance_id) == 1

    def test_a_missing_one(self, stage: Stage) -> None:
        for method in (stage.client.suspend_orchestration, stage.client.resume_orchestration):
            with pytest.raises(OrchestrationNotFoundError):
                method("missing")
        with pytest.raises(OrchestrationNotFoundError):
            stage.client.raise_orchestration_event("missing", "go")


class TestTerminate:
    def test_while_it_is_live(self, stage: Stage, machine: Machine) -> None:
        def flow(ctx: Context, _: None) -> Steps:
            yield ctx.call_activity("slow", input="x")

        stage.worker([flow, listener], machine.activities)
        instance_id = started(stage, flow)
        eventually(lambda: machine.runs == ["x"])
        stage.client.terminate_orchestration(instance_id, output={"by": "me"})
        state = stage.state(instance_id)
        assert (state.runtime_status, state.get_output()) == (TERMINATED, {"by": "me"})
        machine.gate.set()
        stage.client.raise_orchestration_event(instance_id, "late")
        other = stage.start(listener, "now")
        stage.client.raise_orchestration_event(other, "now")
        stage.end(other)
        assert stage.status(instance_id) is TERMINATED
        stage.client.terminate_orchestration(instance_id, output="again")
        assert stage.state(instance_id).get_output() == {"by": "me"}

    @pytest.mark.parametrize("suspend", [False, True])
    def test_without_a_worker(self, stage: Stage, suspend: bool) -> None:
        instance_id = stage.start(listener, "go")
        if suspend:
            stage.client.suspend_orchestration(instance_id)
        stage.client.terminate_orchestration(instance_id)
        assert stage.status(instance_id) is TERMINATED
        stage.client.terminate_orchestration("missing")

    def test_it_reaches_children(self, stage: Stage) -> None:
        stage.worker([parent, listener])
        root = started(stage, parent, 3)
        for number in range(3):
            stage.client.wait_for_orchestration_start(f"{root}-{number}", timeout=TIMEOUT)
        stage.client.terminate_orchestration(root)
        assert {stage.status(f"{root}-{number}") for number in range(3)} == {TERMINATED}

    def test_it_spares_children(self, stage: Stage) -> None:
        stage.worker([parent, listener])
        root = started(stage, parent, 1)
        stage.client.wait_for_orchestration_start(f"{root}-0", timeout=TIMEOUT)
        stage.client.terminate_orchestration(root, recursive=False)
        stage.client.raise_orchestration_event(f"{root}-0", "go", data=1)
        assert stage.output(f"{root}-0") == 1
        assert stage.status(root) is TERMINATED

    def test_a_terminated_child_fails_its_parents_task(self, stage: Stage) -> None:
        stage.worker([parent, listener])
        root = started(stage, parent, 1)
        stage.client.wait_for_orchestration_start(f"{root}-0", timeout=TIMEOUT)
        stage.client.terminate_orchestration(f"{root}-0")
        state = stage.end(root)
        assert state.failure_details is not None
        assert "terminated" in state.failure_details.message


class TestRewind:
    def test_the_first_activity_fails(self, stage: Stage, machine: Machine) -> None:
        def flow(ctx: Context, _: None) -> Steps:
            first = yield ctx.call_activity("work", input="weak")
            return [first, (yield ctx.call_activity("work", input="next"))]

        stage.worker([flow], machine.activities)
        state = stage.run(flow)
        instance_id = state.instance_id
        assert state.runtime_status is FAILED
        failed_history, failed_execution = stage.history(instance_id), execution(stage, instance_id)
        machine.is_mended = True
        stage.client.rewind_orchestration(instance_id, reason="mended")
        assert stage.output(instance_id) == ["WEAK", "NEXT"]
        assert stage.state(instance_id).failure_details is None
        history = stage.history(instance_id)
        assert not any(isinstance(event, TaskFailedEvent) for event in history)
        (rewound,) = (event for event in history if isinstance(event, ExecutionRewoundEvent))
        assert rewound.reason == "mended"
        before = stage.client.get_orchestration_history(instance_id, execution_id=failed_execution)
        assert before == failed_history

    def test_twice(self, stage: Stage, machine: Machine) -> None:
        def flow(ctx: Context, _: None) -> Steps:
            first = yield ctx.call_activity("work", input="strong")
            return [first, (yield ctx.call_activity("work", input="weak"))]

        stage.worker([flow], machine.activities)
        instance_id = stage.run(flow).instance_id
        stage.client.rewind_orchestration(instance_id)
        assert stage.end(instance_id).runtime_status is FAILED
        machine.is_mended = True
        stage.client.rewind_orchestration(instance_id)
        assert stage.output(instance_id) == ["STRONG", "WEAK"]
        assert machine.runs == ["strong", "weak", "weak", "weak"]

    def test_siblings_still_run(self, stage: Stage, machine: Machine) -> None:
        def fan(ctx: Context, _: None) -> Steps:
            slow = ctx.call_activity("slow", input="slow")
            weak = yield ctx.call_activity("work", input="weak")
            return [weak, (yield slow)]

        stage.worker([fan], machine.activities)
        instance_id = stage.run(fan).instance_id
        eventually(lambda: sorted(machine.runs) == ["slow", "weak"])
        machine.is_mended = True
        stage.client.rewind_orchestration(instance_id)
        stage.happened(instance_id, TaskCompletedEvent)
        assert stage.status(instance_id) is RUNNING
        machine.gate.set()
        assert stage.output(instance_id) == ["WEAK", "SLOW"]
        assert sorted(machine.runs) == ["slow", "weak", "weak"]

    def test_siblings_that_succeeded_do_not_run_again(self, stage: Stage, machine: Machine) -> None:
        def fan(ctx: Context, _: None) -> Steps:
            parts = ["a", "weak", "b"]
            return (yield task.when_all([ctx.call_activity("work", input=part) for part in parts]))

        stage.worker([fan], machine.activities)
        instance_id = stage.run(fan).instance_id
        machine.is_mended = True
        stage.client.rewind_orchestration(instance_id)
        assert stage.output(instance_id) == ["A", "WEAK", "B"]
        assert sorted(machine.runs) == ["a", "b", "weak", "weak"]

    def test_children_are_rewound_too(self, stage: Stage, machine: Machine) -> None:
        def child(ctx: Context, part: str) -> Steps:
            first = yield ctx.call_activity("work", input="ok")
            return [first, (yield ctx.call_activity("work", input=part))]

        def root(ctx: Context, _: None) -> Steps:
            calls = [
                ctx.call_sub_orchestrator(child, input=part, instance_id=f"{ctx.instance_id}-{part}")
                for part in ("fine", "weak")
            ]
            return (yield task.when_all(calls))

        stage.worker([root, child], machine.activities)
        instance_id = stage.run(root).instance_id
        assert stage.status(f"{instance_id}-weak") is FAILED
        machine.is_mended = True
        stage.client.rewind_orchestration(instance_id)
        assert stage.output(instance_id) == [["OK", "FINE"], ["OK", "WEAK"]]
        assert sorted(machine.runs) == ["fine", "ok", "ok", "weak", "weak"]
        created = [
            e for e in stage.history(instance_id) if isinstance(e, SubOrchestrationInstanceCreatedEvent)
        ]
        assert len(created) == 2

    def test_an_unknown_name(self, stage: Stage) -> None:
        worker = stage.worker()
        state = stage.run(listener, "go")
        assert state.runtime_status is FAILED
        worker.stop()
        stage.worker([listener])
        stage.client.rewind_orchestration(state.instance_id)
        stage.client.raise_orchestration_event(state.instance_id, "go", data=1)
        assert stage.output(state.instance_id) == 1

    def test_only_what_has_failed(self, stage: Stage) -> None:
        stage.worker([listener])
        instance_id = started(stage, listener, "go")
        with pytest.raises(OrchestrationStateConflictError):
            stage.client.rewind_orchestration(instance_id)
        with pytest.raises(OrchestrationNotFoundError):
            stage.client.rewind_orchestration("missing")


class TestRestartAndPurge:
    def test_restart(self, stage: Stage) -> None:
        def once(ctx: Context, value: int) -> Steps:
            yield ctx.create_timer(timedelta(0))
            return value

        stage.worker([once, listener])
        instance_id = stage.start(once, 5)
        assert stage.output(instance_id) == 5
        first = execution(stage, instance_id)
        assert stage.client.restart_orchestration(instance_id) == instance_id
        assert stage.output(instance_id) == 5
        assert execution(stage, instance_id) != first
        copy = stage.client.restart_orchestration(instance_id, restart_with_new_instance_id=True)
        assert copy != instance_id
        assert stage.output(copy) == 5
        running = started(stage, listener, "go")
        with pytest.raises(OrchestrationStateConflictError):
            stage.client.restart_orchestration(running)
        with pytest.raises(OrchestrationNotFoundError):
            stage.client.restart_orchestration("missing")

    def test_purge(self, stage: Stage) -> None:
        stage.worker([parent, listener])
        root = started(stage, parent, 2)
        assert stage.client.purge_orchestration(root).deleted_instance_count == 0
        for number in range(2):
            stage.client.wait_for_orchestration_start(f"{root}-{number}", timeout=TIMEOUT)
            stage.client.raise_orchestration_event(f"{root}-{number}", "go", data=number)
        assert stage.output(root) == [0, 1]
        assert stage.client.purge_orchestration(root).deleted_instance_count == 3
        assert stage.client.get_all_orchestration_states() == []
        assert stage.client.purge_orchestration(root).deleted_instance_count == 0

    def test_purge_by_status(self, stage: Stage) -> None:
        stage.worker([listener])
        ids = [started(stage, listener, "go") for _ in range(3)]
        stage.client.terminate_orchestration(ids[0])
        stage.client.raise_orchestration_event(ids[1], "go")
        stage.end(ids[1])
        result = stage.client.purge_orchestrations_by(runtime_status=[TERMINATED])
        assert (result.deleted_instance_count, result.is_complete) == (1, True)
        assert stage.client.purge_orchestrations_by().deleted_instance_count == 1
        assert [state.instance_id for state in stage.client.get_all_orchestration_states()] == [ids[2]]

    def test_an_id_is_used_again_only_when_the_policy_says_so(self, stage: Stage) -> None:
        stage.worker([listener])
        live = started(stage, listener, "go", instance_id="one")
        with pytest.raises(OrchestrationAlreadyExistsError):
            stage.start(
                listener, "go", instance_id="one", reuse_id_policy=OrchestrationIdReusePolicy([FAILED])
            )
        stage.client.raise_orchestration_event(live, "go", data="first")
        assert stage.output(live) == "first"
        with pytest.raises(OrchestrationAlreadyExistsError):
            stage.start(listener, "go", instance_id="one")
        policy = OrchestrationIdReusePolicy([COMPLETED, RUNNING, PENDING])
        assert stage.start(listener, "went", instance_id="one", reuse_id_policy=policy) == "one"
        stage.client.wait_for_orchestration_start("one", timeout=TIMEOUT)
        stage.start(listener, "gone", instance_id="one", reuse_id_policy=policy)
        stage.client.raise_orchestration_event("one", "went", data="wrong")
        stage.client.raise_orchestration_event("one", "gone", data="third")
        assert stage.output("one") == "third"


class TestWhoRunsWhat:
    def test_a_bare_worker_fails_what_it_does_not_know(self, stage: Stage) -> None:
        def caller(ctx: Context, _: None) -> Steps:
            yield ctx.call_activity("unknown_activity")

        stage.worker([caller])
        details = stage.run("unknown").failure_details
        assert details is not None
        assert details.is_caused_by(OrchestratorNotRegisteredError)
        details = stage.run(caller).failure_details
        assert details is not None
        assert "unknown_activity" in details.message

    def test_a_filtered_worker_leaves_it_to_others(self, stage: Stage) -> None:
        old = stage.worker([listener], start=False)
        old.use_work_item_filters()
        old.start()

        def newcomer(ctx: Context, _: None) -> Steps:
            return (yield ctx.call_activity(late, input=1))

        def late(ctx: task.ActivityContext, value: int) -> int:
            return value

        instance_id = stage.start(newcomer)
        known = stage.start(listener, "go")
        stage.client.raise_orchestration_event(known, "go")
        stage.end(known)
        assert stage.status(instance_id) is PENDING
        new = stage.worker([newcomer], [late], start=False)
        new.use_work_item_filters()
        new.start()
        assert stage.output(instance_id) == 1

    def test_filters_by_version_and_for_activities(self, stage: Stage, machine: Machine) -> None:
        def flow(ctx: Context, _: None) -> Steps:
            return (yield ctx.call_activity("work", input=ctx.version))

        turns = stage.worker([flow], start=False)
        turns.use_work_item_filters(WorkItemFilters([OrchestrationWorkItemFilter("flow", ["1", "2"])]))
        turns.start()
        ids = {version: stage.start(flow, version=version) for version in ("1", "2", "3")}
        for version in ("1", "2"):
            stage.happened(ids[version], TaskScheduledEvent)
        assert stage.status(ids["3"]) is PENDING
        assert machine.runs == []
        hands = stage.worker([], machine.activities, start=False)
        hands.use_work_item_filters(WorkItemFilters(activities=[ActivityWorkItemFilter("work")]))
        hands.start()
        assert stage.output(ids["1"]) == "1"
        assert stage.output(ids["2"]) == "2"
        assert stage.status(ids["3"]) is PENDING

    @pytest.mark.parametrize(
        ("strategy", "fitting", "others"),
        [
            (VersionMatchStrategy.STRICT, ["2.0"], ["1.0", "2.1", None]),
            (VersionMatchStrategy.CURRENT_OR_OLDER, ["2.0", "1.10", "1.9", None], ["2.0.1", "10"]),
            (VersionMatchStrategy.NONE, ["2.0", "99", None], []),
        ],
    )
    @pytest.mark.parametrize("failure", list(VersionFailureStrategy))
    def test_versioning(
        self,
        stage: Stage,
        strategy: VersionMatchStrategy,
        failure: VersionFailureStrategy,
        fitting: list[str | None],
        others: list[str | None],
    ) -> None:
        def versioned(ctx: Context, _: None) -> str | None:
            return ctx.version

        worker = stage.worker([versioned], start=False)
        worker.use_versioning(
            VersioningOptions(version="2.0", match_strategy=strategy, failure_strategy=failure)
        )
        misfits = [stage.start(versioned, version=version) for version in others]
        worker.start()
        for version in fitting:
            assert stage.output(stage.start(versioned, version=version)) == version
        for instance_id in misfits:
            if failure is VersionFailureStrategy.FAIL:
                details = stage.end(instance_id).failure_details
                assert details is not None
                assert details.error_type == "VersionMismatch"
            else:
                assert stage.status(instance_id) is PENDING

    def test_children_get_the_workers_default_version(self, stage: Stage) -> None:
        def child(ctx: Context, _: None) -> str | None:
            return ctx.version

        def root(ctx: Context, _: None) -> Steps:
            default = yield ctx.call_sub_orchestrator(child)
            given = yield ctx.call_sub_orchestrator(child, version="7")
            return [ctx.version, default, given]

        worker = stage.worker([root, child], start=False)
        worker.use_versioning(VersioningOptions(default_version="3"))
        worker.start()
        assert stage.output(stage.start(root, version="9")) == ["9", "3", "7"]

    def test_queues(self, stage: Stage) -> None:
        def quick(ctx: Context, _: None) -> str:
            return "done"

        stage.worker([quick], queues=["blue"])
        red, blue = (stage.start(quick, queue=queue) for queue in ("red", "blue"))
        assert stage.output(blue) == "done"
        assert stage.status(red) is PENDING
        stage.worker([quick], queues=["red"])
        assert stage.output(red) == "done"

    def test_nothing_is_registered_while_it_runs(self, stage: Stage) -> None:
        worker = stage.worker([listener])
        for register in (
            lambda: worker.add_orchestrator(parent),
            lambda: worker.add_activity(len),
            worker.use_work_item_filters,
            worker.start,
        ):
            with pytest.raises(RuntimeError, match="stop"):
                register()
        worker.stop()
        worker.add_orchestrator(parent)
        with pytest.raises(ValueError, match="parent"):
            worker.add_orchestrator(parent)

    def test_a_worker_can_be_started_again(self, stage: Stage) -> None:
        worker = stage.worker([listener])
        instance_id = started(stage, listener, "go")
        worker.stop()
        worker.stop()
        stage.client.raise_orchestration_event(instance_id, "go", data=1)
        assert stage.status(instance_id) is RUNNING
        worker.start()
        assert stage.output(instance_id) == 1


def test_a_timer_is_cancelled_with_its_orchestration(stage: Stage) -> None:
    def sleeper(ctx: Context, _: None) -> Steps:
        yield ctx.create_timer(timedelta(days=1))

    stage.worker([sleeper])
    instance_id = started(stage, sleeper)
    stage.happened(instance_id, TimerCreatedEvent)
    stage.client.terminate_orchestration(instance_id)
    assert stage.client.purge_orchestration(instance_id).deleted_instance_count == 1
    with pytest.raises(OrchestrationNotFoundError):
        stage.history(instance_id)
