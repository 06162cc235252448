"""What a station is doing, and what leads from one to the next: the state machine of OPC 40100-1 (machine vision).

Preoperational ── select_mode_automatic ── Initialized ── prepare_recipe ── Ready ── start_… ── …Execution
      └──────────── reset ──────────── Error, Halted ── halt, a fault ──────┴── stop, abort, done ──┘
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType

from inspectd.errors import WrongState
from inspectd.wire import State

__all__ = ["EXECUTING", "OPERATIONAL", "PREPARED", "TRANSITIONS", "Event", "StateMachine", "next_state"]


class Event(str, Enum):
    """What leads from one state to another: operations of control by their names, and what happens by itself."""

    SELECT_MODE_AUTOMATIC = "select_mode_automatic"
    PREPARE_RECIPE = "prepare_recipe"
    START_SINGLE_JOB = "start_single_job"
    START_CONTINUOUS = "start_continuous"
    STOP = "stop"
    ABORT = "abort"
    HALT = "halt"
    RESET = "reset"
    DONE = "done"
    """A single job has its verdict, or all cameras are at their end."""
    FAULT = "fault"
    """Something without which the station cannot work."""


EXECUTING = frozenset({State.SINGLE_EXECUTION, State.CONTINUOUS_EXECUTION})
PREPARED = frozenset({State.READY}) | EXECUTING
OPERATIONAL = frozenset({State.INITIALIZED}) | PREPARED

_FROM_EXECUTION = {Event.STOP: State.READY, Event.ABORT: State.READY, Event.DONE: State.READY}
_ALWAYS = {Event.HALT: State.HALTED, Event.FAULT: State.ERROR}

TRANSITIONS: Mapping[State, Mapping[Event, State]] = MappingProxyType(
    {
        State.PREOPERATIONAL: {Event.SELECT_MODE_AUTOMATIC: State.INITIALIZED, **_ALWAYS},
        State.INITIALIZED: {Event.PREPARE_RECIPE: State.READY, **_ALWAYS},
        State.READY: {
            Event.PREPARE_RECIPE: State.READY,
            Event.START_SINGLE_JOB: State.SINGLE_EXECUTION,
            Event.START_CONTINUOUS: State.CONTINUOUS_EXECUTION,
            **_ALWAYS,
        },
        State.SINGLE_EXECUTION: {**_FROM_EXECUTION, **_ALWAYS},
        State.CONTINUOUS_EXECUTION: {**_FROM_EXECUTION, **_ALWAYS},
        State.ERROR: {Event.RESET: State.PREOPERATIONAL, **_ALWAYS},
        State.HALTED: {Event.RESET: State.PREOPERATIONAL, Event.FAULT: State.ERROR},
    }
)


def next_state(state: State, event: Event) -> State:
    """Where an event leads.

    Raises:
        WrongState: nowhere, from this state.
    """
    found = TRANSITIONS[state].get(event)
    if found is None:
        possible = [each.value for each in TRANSITIONS[state] if each not in (Event.DONE, Event.FAULT)]
        raise WrongState(f"{event.value}: not in state {state.label}; there it can be {' or '.join(possible)}")
    return found


class StateMachine:
    """A station's state, from Preoperational on.

    Attributes:
        state: the present one.
    """

    def __init__(self, state: State = State.PREOPERATIONAL) -> None:
        self.state = state

    def allows(self, event: Event) -> bool:
        """Whether it leads anywhere now."""
        return event in TRANSITIONS[self.state]

    def take(self, event: Event) -> State:
        """Follow it.

        Returns:
            The state that was.

        Raises:
            WrongState: it leads nowhere; the state stays.
        """
        before = self.state
        self.state = next_state(before, event)
        return before
