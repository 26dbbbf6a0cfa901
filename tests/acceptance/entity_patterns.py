"""The entity patterns of the Durable Task Python SDK's guide, as they stand there but for the import."""

# Copied, so that neither the formatter nor the checkers have a say.
# fmt: off
# mypy: ignore-errors

# ---- Function-Based Entity
from durable_django import entities, task


def counter(ctx: entities.EntityContext, input: int):
    """Function-based entity for a counter"""
    state = ctx.get_state(int, 0)  # Get state with default 0

    if ctx.operation == "add":
        state += input
        ctx.set_state(state)
    elif ctx.operation == "subtract":
        state -= input
        ctx.set_state(state)
    elif ctx.operation == "get":
        return state
    elif ctx.operation == "reset":
        ctx.set_state(0)


# ---- Class-Based Entity

class Counter(entities.DurableEntity):
    """Class-based entity for a counter"""

    def __init__(self):
        self.set_state(0)

    def add(self, amount: int):
        current = self.get_state(int, 0)
        self.set_state(current + amount)

    def subtract(self, amount: int):
        current = self.get_state(int, 0)
        self.set_state(current - amount)

    def get(self) -> int:
        return self.get_state(int, 0)

    def reset(self):
        self.set_state(0)


# ---- Using Entities from Orchestrations

def workflow_with_entity(ctx: task.OrchestrationContext, _):
    """Orchestration that interacts with entities"""
    entity_id = entities.EntityInstanceId("counter", "my-counter")

    # Signal entity (fire-and-forget) - uses entity_id and operation_name params
    ctx.signal_entity(entity_id=entity_id, operation_name="add", input=5)

    # Call entity and wait for result - uses entity and operation params (different from signal!)
    value = yield ctx.call_entity(entity=entity_id, operation="get")

    return f"Counter value: {value}"


# ---- Entity Locking, and the account that it takes for granted

class Account(entities.DurableEntity):
    """An account with an overdraft"""

    def get_balance(self) -> int:
        return self.get_state(int, 0)

    def withdraw(self, amount: int):
        self.set_state(self.get_balance() - amount)

    def deposit(self, amount: int):
        self.set_state(self.get_balance() + amount)


def workflow_with_locks(ctx: task.OrchestrationContext, _):
    """Lock multiple entities for atomic operations"""
    entity_id_1 = entities.EntityInstanceId("account", "account-1")
    entity_id_2 = entities.EntityInstanceId("account", "account-2")

    # Lock entities for exclusive access
    with (yield ctx.lock_entities([entity_id_1, entity_id_2])):
        # Perform atomic operations on both entities
        # Note: call_entity uses 'entity' and 'operation' params
        balance1 = yield ctx.call_entity(entity=entity_id_1, operation="get_balance")
        balance2 = yield ctx.call_entity(entity=entity_id_2, operation="get_balance")

        # Transfer between accounts
        yield ctx.call_entity(entity=entity_id_1, operation="withdraw", input=100)
        yield ctx.call_entity(entity=entity_id_2, operation="deposit", input=100)

    return "Transfer complete"
