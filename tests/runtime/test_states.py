"""The state machine of a station."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from inspectd.errors import WrongState
from inspectd.runtime.states import EXECUTING, OPERATIONAL, TRANSITIONS, Event, StateMachine, next_state
from inspectd.wire import State


class Led(RuleBasedStateMachine):
    """Any events in any order: what is refused changes nothing, and what holds holds always."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = StateMachine()
        self.history = [State.PREOPERATIONAL]

    @rule(event=st.sampled_from(list(Event)))
    def happen(self, event: Event) -> None:
        before = self.machine.state
        if event in TRANSITIONS[before]:
            assert self.machine.take(event) is before
            self.history.append(self.machine.state)
        else:
            with pytest.raises(WrongState, match=before.label):
                self.machine.take(event)
            assert self.machine.state is before

    @invariant()
    def executes_only_from_ready(self) -> None:
        for before, after in zip(self.history, self.history[1:], strict=False):
            if after in EXECUTING and before is not after:
                assert before is State.READY
            if after in OPERATIONAL:
                assert before in OPERATIONAL | {State.PREOPERATIONAL}

    @invariant()
    def error_and_halted_are_left_by_reset_alone(self) -> None:
        for before, after in zip(self.history, self.history[1:], strict=False):
            if before in (State.ERROR, State.HALTED) and after not in (State.ERROR, State.HALTED):
                assert after is State.PREOPERATIONAL


TestLed = Led.TestCase


@given(state=st.sampled_from(list(State)))
def test_a_fault_leads_to_error_from_everywhere(state):
    assert next_state(state, Event.FAULT) is State.ERROR


@given(events=st.lists(st.sampled_from(list(Event)), max_size=30))
def test_every_state_can_be_led_to_execution_again(events):
    machine = StateMachine()
    for event in events:
        if machine.allows(event):
            machine.take(event)
    way = {
        State.ERROR: Event.RESET,
        State.HALTED: Event.RESET,
        State.PREOPERATIONAL: Event.SELECT_MODE_AUTOMATIC,
        State.INITIALIZED: Event.PREPARE_RECIPE,
        State.READY: Event.START_CONTINUOUS,
    }
    for _ in range(4):
        if machine.state not in EXECUTING:
            machine.take(way[machine.state])
    assert machine.state in EXECUTING


def test_what_is_refused_says_what_can_be_done():
    with pytest.raises(WrongState, match=r"start_continuous: not in state Preoperational; .* select_mode_automatic"):
        next_state(State.PREOPERATIONAL, Event.START_CONTINUOUS)
