"""Batches: declared axes, padding, stacking, permutation, packing."""

import pickle

import pytest
import torch
from support.trunks import random_batch

from refsys.batch import ALPHAFOLD3_FIELDS, FIXED_AXES, TRUNK_FIELDS, Batch
from refsys.errors import ArgumentError


def test_fields_are_declared_once_with_a_description():
    assert len({field.name for field in TRUNK_FIELDS}) == len(TRUNK_FIELDS)
    assert all(field.meaning for field in TRUNK_FIELDS)


def test_batch_sizes_equal_those_of_the_tensors():
    batch = random_batch(9, 4, batch=2)
    assert batch.sizes == {"batch": 2, "token": 9, "cycle": 1, "alignment_row": 4, "bond": 3}


def test_padding_appends_the_declared_value_and_preserves_entries():
    batch = random_batch(9, 4)
    padded = batch.padded(token=12, alignment_row=5)
    for field in TRUNK_FIELDS:
        inside = tuple(slice(size) for size in batch[field.name].shape)
        assert torch.equal(padded[field.name][inside], batch[field.name])
        outside = padded[field.name].clone()
        outside[inside] = field.padding
        assert (outside == field.padding).all(), field.name
    with pytest.raises(ArgumentError, match="cannot pad axis token to 8: it is 9"):
        batch.padded(token=8)
    with pytest.raises(
        ArgumentError, match="cannot pad axis atom: the batch has the axes batch, token"
    ):
        batch.padded(atom=8)


def test_stacked_pads_axes_to_the_longest_example():
    both = Batch.stacked([random_batch(9, 4), random_batch(7, 6)])
    assert both.sizes == {"batch": 2, "token": 9, "cycle": 1, "alignment_row": 6, "bond": 3}
    assert both["token_mask"].sum(1).tolist() == [9, 7]
    with pytest.raises(ArgumentError, match="at least one"):
        Batch.stacked([])


def test_permuted_tokens_keeps_bonds_between_the_same_tokens():
    batch = random_batch(9, 4)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(2))
    permuted = batch.permuted_tokens(order)
    for (a, b), (c, d) in zip(batch["bonds"][0], permuted["bonds"][0], strict=True):
        assert (order[c], order[d]) == (a, b)
    back = permuted.permuted_tokens(torch.argsort(order))
    assert all(torch.equal(back[name], batch[name]) for name in batch)


def test_empty_batch_has_the_declared_shapes():
    batch = Batch.empty(batch=2, token=5, cycle=1, alignment_row=3, bond=4)
    assert batch["profile"].shape == (2, 5, FIXED_AXES["residue_class"])
    assert batch.nbytes == sum(t.numel() * t.element_size() for t in batch.values())
    assert batch.to(torch.device("cpu"))["alignment"].dtype == torch.uint8


def test_replaced_changes_only_the_named_fields():
    batch = random_batch(9, 4)
    new = torch.full_like(batch["pseudo_beta"], 2.0)
    replaced = batch.replaced(pseudo_beta=new)
    assert torch.equal(replaced["pseudo_beta"], new)
    assert not torch.equal(batch["pseudo_beta"], new)
    for name in set(batch) - {"pseudo_beta"}:
        assert replaced[name] is batch[name]
    assert replaced.fields == batch.fields
    with pytest.raises(ArgumentError, match=r"undeclared \['beta'\]"):
        batch.replaced(beta=new)
    with pytest.raises(ArgumentError, match=r"is torch\.float64; expected torch\.float32"):
        batch.replaced(pseudo_beta=new.double())
    with pytest.raises(ArgumentError, match="axis token is 8; expected 9"):
        batch.replaced(pseudo_beta=new[:, :8])


def test_replaced_moves_tensors_to_the_device_of_the_batch():
    batch = random_batch(9, 4).to(torch.device("meta"))
    assert batch.replaced(pseudo_beta=torch.zeros(1, 9, 3))["pseudo_beta"].is_meta


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bonds": None}, r"batch lacks \['bonds'\]"),
        ({"extra": torch.zeros(1)}, r"undeclared \['extra'\]"),
        (
            {"residue_type": torch.zeros(1, 9)},
            "residue_type is torch.float32; expected torch.uint8",
        ),
        ({"asym_id": torch.zeros(1, 8, dtype=torch.int32)}, "axis token is 8; expected 9"),
        ({"profile": torch.zeros(1, 9, 30)}, "axis residue_class is 30; expected 31"),
        ({"example": torch.zeros(1, 1, dtype=torch.int64)}, r"example has shape \(1, 1\)"),
    ],
)
def test_batch_raises_when_tensors_contradict_the_declaration(change, message):
    tensors = {**random_batch(9, 4), **change}
    with pytest.raises(ArgumentError, match=message):
        Batch({name: tensor for name, tensor in tensors.items() if tensor is not None})


def test_packed_batch_round_trips_in_one_buffer():
    batch = Batch.empty(
        ALPHAFOLD3_FIELDS,
        batch=2,
        token=5,
        cycle=2,
        alignment_row=3,
        bond=7,
        atom=32,
        template=1,
        ligand_bond=0,
    )
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randint(0, 2, tensor.shape, generator=generator).to(tensor.dtype)
        for name, tensor in batch.items()
    }
    batch = Batch(tensors, batch.fields)
    packed = pickle.loads(pickle.dumps(batch.packed()))
    unpacked = packed.unpacked()
    assert unpacked.digests() == batch.digests()
    assert unpacked.sizes == batch.sizes
    assert len({tensor.untyped_storage().data_ptr() for tensor in unpacked.values()}) == 1
    assert packed.buffer.numel() < batch.nbytes + 64 * len(batch)
