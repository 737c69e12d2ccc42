"""Stages of a device check, a module each with a function ``run``.

It returns what the stage found that no record holds. `bench.check_device.check` has the errors by
which a stage ends early.
"""
