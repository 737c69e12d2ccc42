"""Options of a typed configuration: parsing, bounds, and one declaration for every use."""

import argparse
from dataclasses import dataclass, field

import pytest

from bench.cli.options import add_option
from refsys.errors import ArgumentError
from refsys.options import changed, configured, option, options_of, values_of
from refsys.run_config import ModelOptions, RunConfig
from workloads.workload import Workload


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: int = option(4, "size of something", minimum=1, maximum=9)
    names: tuple[str, ...] = option(("a",), "names", axis_name="name")


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    rate: float = option(0.5, "rate", minimum=0, maximum=1)
    kind: str = option("plain", "kind", choices=lambda: ("plain", "fancy"))
    on: bool = option(True, "whether it is on", axis=False)


def test_options_are_the_leaves_in_order():
    leaves = options_of(Outer)
    assert [leaf.name for leaf in leaves] == ["size", "name", "rate", "kind", "on"]
    assert [leaf.path for leaf in leaves][:2] == [("inner", "size"), ("inner", "names")]


def test_values_and_configurations_are_inverse():
    config = configured(Outer, {"size": "7", "name": "a b", "rate": 1, "on": "false"})
    assert config == Outer(inner=Inner(size=7, names=("a", "b")), rate=1.0, on=False)
    assert configured(Outer, values_of(config)) == config
    assert changed(config, size=2) == Outer(
        inner=Inner(size=2, names=("a", "b")), rate=1.0, on=False
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 0}, "size=0 is less than 1"),
        ({"size": 10}, "size=10 is more than 9"),
        ({"size": 1.5}, r"size=1\.5 is not of type int"),
        ({"size": True}, "size=True is not of type int"),
        ({"rate": float("nan")}, "rate=nan is less than 0"),
        ({"kind": "odd"}, "kind='odd' does not exist; choose one of plain, fancy"),
        ({"on": "perhaps"}, "on='perhaps' is not of type bool"),
        ({"shape": 1}, "'shape' does not exist; choose one of size, name"),
    ],
)
def test_values_that_do_not_fit_are_refused_in_one_line(values, message):
    with pytest.raises(ArgumentError, match=message):
        configured(Outer, values)


def test_fields_without_declaration_and_repeated_names_are_refused():
    @dataclass(frozen=True)
    class Undeclared:
        size: int = 3

    @dataclass(frozen=True)
    class Twice:
        inner: Inner = field(default_factory=Inner)
        size: int = option(1, "another size")

    with pytest.raises(TypeError, match=r"Undeclared\.size is not declared with option"):
        options_of(Undeclared)
    with pytest.raises(TypeError, match="two options 'size'"):
        options_of(Twice)


def test_new_leaf_is_an_axis_and_a_command_line_option():
    @dataclass(frozen=True, kw_only=True)
    class Longer(ModelOptions):
        heads: int = option(8, "heads of something new", minimum=1)

    @dataclass(frozen=True, kw_only=True)
    class LongerRun(RunConfig):
        model: Longer = field(default_factory=Longer)

    @dataclass(frozen=True, kw_only=True)
    class Case:
        run: LongerRun = field(default_factory=LongerRun)

    class Longest(Workload):
        name, summary, configuration = "longest", "a test", Case

        facts = build = build_abstract = None

    Longest.__abstractmethods__ = frozenset()
    workload = Longest()
    config = workload.configure({"heads": "12"})
    assert config.run.model.heads == workload.values(config)["heads"] == 12
    assert "heads=12" in workload.title(config)

    parser = argparse.ArgumentParser()
    for leaf in options_of(LongerRun):
        add_option(parser, leaf)
    heads = parser.parse_args(["--heads", "3"]).heads
    assert configured(LongerRun, {"heads": heads}).model.heads == 3
    assert "heads of something new (default: 8)" in " ".join(parser.format_help().split())


def test_train_has_every_option_that_structure_workloads_have():
    """The conventional pipelines are excepted: they are for comparison only."""
    from workloads.catalogue import catalogue

    train = {leaf.name for leaf in options_of(RunConfig) if leaf.command_line}
    for name in ("alphafold3", "alphafold3-trunk"):
        assert {axis.name for axis in catalogue()[name].axes} - train <= {"path"}
