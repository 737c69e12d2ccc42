"""Ambient settings of the operators: visibility in threads, nesting, and the end of a block."""

from dataclasses import FrozenInstanceError
from threading import Event, Thread

import pytest
import torch

from refsys import ops
from refsys.ops.scope import Settings, current, override
from refsys.ops.triton_backend import launch_options, use_launch_options
from refsys.ops.workspace import Scratch, declare, watch, workspace


def in_another_thread(call):
    results = []
    thread = Thread(target=lambda: results.append(call()))
    thread.start()
    thread.join()
    return results[0]


def test_defaults_are_in_force_outside_of_blocks():
    with override(architecture="gfx942"):
        assert current() != Settings()
    assert current() == Settings()


def test_settings_cannot_be_changed_in_place():
    with pytest.raises(FrozenInstanceError):
        current().architecture = "sm_80"


def test_inner_block_precedes_outer_one_and_keeps_its_other_settings():
    with override(architecture="sm_80", repetitions=2), override(repetitions=3):
        assert (current().architecture, current().repetitions) == ("sm_80", 3)
    assert current() == Settings()


def test_block_ends_when_its_body_raises():
    with pytest.raises(RuntimeError), override(repetitions=2):
        raise RuntimeError
    assert current().repetitions == 1


def test_change_is_visible_in_other_threads():
    with override(architecture="sm_80"):
        assert in_another_thread(current).architecture == "sm_80"
    assert in_another_thread(current) == Settings()


def test_backends_hold_in_the_thread_that_chose_them():
    with ops.use_backend("compiled"):
        assert current().backends == {"*": "compiled"}
        assert in_another_thread(current).backends == {}


def test_unknown_setting_is_an_error():
    with pytest.raises(TypeError), override(colour="red"):
        current()
    assert current() == Settings()


def test_blocks_of_threads_may_end_in_any_order():
    """The block of another thread opens inside of this one's and outlives it."""
    seen, opened, closed = [], Event(), Event()

    def watch_longer():
        with watch(lambda scratch: seen.append(("other", scratch.nbytes))):
            opened.set()
            closed.wait()
            declare("a.b", 2)

    thread = Thread(target=watch_longer)
    with watch(lambda scratch: seen.append(("this", scratch.nbytes))):
        thread.start()
        opened.wait()
        declare("a.b", 1)
    closed.set()
    thread.join()
    declare("a.b", 3)
    assert seen == [("this", 1), ("other", 1), ("other", 2)]


def test_launch_options_and_scratch_callbacks_reach_another_thread():
    fake, seen = torch.empty(4, 16, device="meta"), []
    with use_launch_options({"transition.forward": {"BLOCK_ROWS": 8}}), watch(seen.append):
        options = in_another_thread(lambda: launch_options("transition.forward", fake))
        in_another_thread(lambda: workspace("a.b", (4,), dtype=torch.float32, device=fake.device))
    assert options == {"BLOCK_ROWS": 8}
    assert seen == [Scratch("a.b", 16)]
