"""Remembered outputs of operators on fake tensors are those that torch computes."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from refsys.costs import trace as tracing
from refsys.costs.output_cache import OutputCache
from workloads.catalogue import catalogue
from workloads.predicted_costs import predicted_costs

ATEN = torch.ops.aten


class Uncached:
    """Calls of operators without a cache."""

    def call(self, func, args, kwargs):
        return func(*args, **kwargs)


def metadata(out):
    return [
        (t.shape, t.stride(), t.dtype, t.device, t.storage_offset(), t.untyped_storage().nbytes())
        for t in tree_leaves(out)
        if t is not None
    ]


def operators():
    """Return operators with arguments, of which some are equal but for one property."""
    x = torch.empty(4, 6)
    half, narrow, turned = x.half(), x[:, 1:5], torch.empty(6, 4).t()
    for a in (x, half, narrow, turned):
        yield ATEN.mul.Tensor, a, 2.0
        yield ATEN.mul.Tensor, a, a
        yield ATEN.clone.default, a
        yield ATEN.sum.dim_IntList, a, [0], True
        yield ATEN.sum.dim_IntList, a, [0], False
        yield ATEN._to_copy.default, a
        yield ATEN.cat.default, [a, a]
        yield ATEN.t.default, a
        yield ATEN.split.Tensor, a, 3, 1
        yield ATEN.add_.Tensor, a, 1.0
        yield ATEN.copy_.default, a, a[:1]
        yield ATEN._foreach_copy_.default, [a, a], [a, a]
        yield ATEN.native_layer_norm.default, a, [a.shape[1]], None, None, 1e-5
    yield ATEN.add.Tensor, torch.empty(3, dtype=torch.int64), 1
    yield ATEN.add.Tensor, torch.empty(3, dtype=torch.int64), 1.0
    yield ATEN.add.Tensor, torch.empty(3, dtype=torch.int64), True
    yield ATEN._unsafe_view.default, x, [24]
    yield ATEN.mul.Tensor, x, torch.tensor(2)


def test_outputs_have_the_metadata_that_torch_computes():
    cache = OutputCache()
    with FakeTensorMode():
        for func, *args in list(operators()):
            expected = metadata(func(*args))
            for _ in range(3):
                assert metadata(cache.call(func, tuple(args), {})) == expected, str(func)


def test_outputs_share_the_storages_that_torch_lets_them_share():
    cache = OutputCache()
    with FakeTensorMode():
        for func, *args in list(operators()):
            first = args[0]
            if not isinstance(first, torch.Tensor):
                continue
            known = {id(first.untyped_storage())}
            shared = [id(t.untyped_storage()) in known for t in tree_leaves(func(*args))]
            for _ in range(2):
                outputs = tree_leaves(cache.call(func, tuple(args), {}))
                assert [id(t.untyped_storage()) in known for t in outputs] == shared, str(func)


def test_known_output_is_allocated_without_a_call():
    cache, calls = OutputCache(), []

    class Counted:
        namespace, is_view, _schema = "aten", False, ATEN.exp.default._schema

        def __call__(self, x):
            calls.append(x)
            return ATEN.exp.default(x)

    exp = Counted()
    with FakeTensorMode():
        x = torch.empty(3)
        first, second = (cache.call(exp, (x,), {}) for _ in range(2))
        assert len(calls) == 1
        assert first is not second
        cache.call(exp, (torch.empty(4),), {})
    assert len(calls) == 2


def test_written_argument_is_returned_without_a_call():
    cache, calls = OutputCache(), []

    class Counted:
        namespace, is_view, tags = "aten", False, ATEN.add_.Tensor.tags
        _schema = ATEN.add_.Tensor._schema

        def __call__(self, x, y):
            calls.append(x)
            return ATEN.add_.Tensor(x, y)

    add = Counted()
    with FakeTensorMode():
        tensors = torch.empty(3), torch.empty(3)
        assert all(cache.call(add, (x, tensors[0]), {}) is x for x in tensors)
        assert len(calls) == 1
        x = torch.empty(3, 1)
        assert cache.call(add, (x, x), {}) is x
    assert len(calls) == 2


def test_step_of_the_optimizer_is_not_called_again_and_new_metadata_are():
    cache, calls = OutputCache(), []
    adam = ATEN._fused_adam_.default

    class Counted:
        namespace, is_view, tags, _schema = "aten", False, adam.tags, adam._schema

        def __call__(self, *args, **kwargs):
            calls.append(args)
            return adam(*args, **kwargs)

    numbers = {"lr": 0.1, "beta1": 0.9, "beta2": 0.9, "weight_decay": 0.0, "eps": 1e-8}
    numbers |= {"amsgrad": False, "maximize": False}
    step = Counted()
    with FakeTensorMode():
        for shape in ((3, 2), (3, 2), (2, 3)):
            lists = [[torch.empty(shape)] for _ in range(4)]
            assert cache.call(step, (*lists, [], [torch.empty(())]), numbers) is None
    assert len(calls) == 2


def test_output_that_is_resized_is_computed_each_time():
    cache = OutputCache()
    with FakeTensorMode():
        x = torch.empty(2, 3)
        for _ in range(2):
            out = torch.empty(0)
            cache.call(ATEN.cat.out, ([x, x],), {"out": out})
            assert out.shape == (4, 3)


def test_alias_that_a_schema_conceals_is_never_allocated_anew():
    class Concealed:
        namespace, is_view, _schema = "aten", False, ATEN.exp.default._schema

        def __call__(self, x):
            return x.view(-1)

    cache, concealed = OutputCache(), Concealed()
    with FakeTensorMode():
        x = torch.empty(3)
        for _ in range(2):
            out = cache.call(concealed, (x,), {})
            assert out.untyped_storage() is x.untyped_storage()


def test_real_tensors_are_computed():
    cache = OutputCache()
    for value in (1.0, 2.0):
        x = torch.full((2,), value)
        assert torch.equal(cache.call(ATEN.exp.default, (x,), {}), x.exp())


@pytest.mark.parametrize("preset", ["llama-tiny", "bloom-tiny"])
def test_costs_are_equal_without_the_cache(monkeypatch, preset):
    workload = catalogue()["transformer"]
    config = workload.configure({"preset": preset, "tokens": 32})
    cached = predicted_costs(workload, config)
    monkeypatch.setattr(tracing, "OUTPUTS", Uncached())
    assert predicted_costs(workload, config) == cached


class TestProjectOperators:
    """A repeated call of an operator has the outputs and the reports of the first one."""

    @staticmethod
    def costs(monkeypatch, remember):
        from refsys.costs.prediction import predict
        from refsys.costs.project_operators import ProjectOperators
        from workloads.catalogue import catalogue

        if not remember:
            monkeypatch.setattr(
                ProjectOperators, "call", lambda self, func, args, kwargs, *_: func(*args, **kwargs)
            )
        workload = catalogue()["alphafold3-trunk"]
        axes = {"preset": "tiny", "tokens": 16, "entry": "synthetic", "alignment_rows": 4}
        config = workload.configure(axes | {"backend": "triton", "precision": "bfloat16"})
        return predict(lambda: workload.build_abstract(config))

    def test_trace_is_that_without_memory(self, monkeypatch):
        remembered = self.costs(monkeypatch, remember=True)
        assert remembered == self.costs(monkeypatch, remember=False)
        assert remembered.kernels
