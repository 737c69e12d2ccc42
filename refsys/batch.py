"""Batches with declared fields: each field names its axes, its dtype and its padding value.

Padding, collation, device transfer and permutation follow from the declaration, so that a new field
needs one line here and none elsewhere. Categorical features are stored as small integers, which the
model expands on the device.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from refsys.errors import ArgumentError


@dataclass(frozen=True, slots=True)
class Field:
    """One field of an example.

    Attributes:
        name: Name in the batch.
        axes: Named axes, in order, without the batch axis. A name in `FIXED_AXES` has the size
            stated there; every other axis takes its size from the batch and can be padded.
        dtype: Dtype of the tensor.
        padding: Value of padded entries.
        meaning: One-line description.
        index_of: Axis that the values index, if they are indices; negative values index nothing.
    """

    name: str
    axes: tuple[str, ...]
    dtype: torch.dtype
    padding: float
    meaning: str
    index_of: str = ""


# Query atoms of a window of the sequence-local attention (AlphaFold 3, Algorithm 7). The atom axis
# is padded to a multiple of it.
ATOM_WINDOW = 32
# Key atoms of a window, with the same centre, and those beyond either end of it.
ATOM_KEYS = 128
ATOM_HALO = (ATOM_KEYS - ATOM_WINDOW) // 2

FIXED_AXES = {"xyz": 3, "end": 2, "residue_class": 31, "letter": 4, "corner": 3}

TRUNK_FIELDS: tuple[Field, ...] = (
    Field("example", (), torch.int64, 0, "index in the global batch (RNG key)"),
    Field("token_mask", ("token",), torch.bool, False, "False where padded"),
    Field("residue_type", ("token",), torch.uint8, 20, "residue class; unknown for atom tokens"),
    Field("residue_index", ("token",), torch.int32, 0, "residue number in its chain, from 1"),
    Field("token_index", ("token",), torch.int32, 0, "token number in the whole structure"),
    Field("asym_id", ("token",), torch.int32, -1, "chain number"),
    Field("entity_id", ("token",), torch.int32, -1, "index of the distinct molecule"),
    Field("sym_id", ("token",), torch.int32, 0, "number of the chain among copies of its entity"),
    Field("element", ("token",), torch.uint8, 0, "atomic number of an atom token, else 0"),
    Field("profile", ("token", "residue_class"), torch.float32, 0, "class frequencies"),
    Field("deletion_mean", ("token",), torch.float32, 0, "mean deletions to the left"),
    Field(
        "alignment",
        ("cycle", "alignment_row", "token"),
        torch.uint8,
        21,
        "residue class in each MSA row of each recycling iteration",
    ),
    Field(
        "deletions",
        ("cycle", "alignment_row", "token"),
        torch.uint8,
        0,
        "deletions to the left, ≤ 255",
    ),
    Field(
        "alignment_row_mask", ("cycle", "alignment_row"), torch.bool, False, "False where padded"
    ),
    Field(
        "bonds",
        ("bond", "end"),
        torch.int32,
        -1,
        "pairs of bonded tokens; −1 where padded",
        index_of="token",
    ),
    Field("pseudo_beta", ("token", "xyz"), torch.float32, 0, "representative atom, ångström"),
    Field("pseudo_beta_mask", ("token",), torch.bool, False, "whether that atom is resolved"),
)

ATOM_FIELDS: tuple[Field, ...] = (
    Field("atom_mask", ("atom",), torch.bool, False, "False where padded"),
    Field(
        "atom_token", ("atom",), torch.int32, -1, "token of the atom, ascending", index_of="token"
    ),
    Field("reference_position", ("atom", "xyz"), torch.float32, 0, "conformer position, ångström"),
    Field("reference_mask", ("atom",), torch.bool, False, "whether the conformer has the atom"),
    Field("reference_element", ("atom",), torch.uint8, 0, "atomic number"),
    Field("reference_charge", ("atom",), torch.int8, 0, "formal charge"),
    Field("reference_name", ("atom", "letter"), torch.uint8, 0, "character code − 32; 0 is blank"),
    Field("reference_space", ("atom",), torch.int32, -1, "index of its conformer"),
)

TEMPLATE_FIELDS: tuple[Field, ...] = (
    Field("template_mask", ("template",), torch.bool, False, "False for an empty slot"),
    Field("template_residue_type", ("template", "token"), torch.uint8, 21, "residue class; gap"),
    Field("template_pseudo_beta", ("template", "token", "xyz"), torch.float32, 0, "ångström"),
    Field("template_pseudo_beta_mask", ("template", "token"), torch.bool, False, "if resolved"),
    Field(
        "template_backbone",
        ("template", "token", "corner", "xyz"),
        torch.float32,
        0,
        "N, Cα and C, ångström",
    ),
    Field("template_backbone_mask", ("template", "token"), torch.bool, False, "if resolved"),
)
LABEL_FIELDS: tuple[Field, ...] = (
    Field("atom_position", ("atom", "xyz"), torch.float32, 0, "experimental position, ångström"),
    Field("atom_resolved", ("atom",), torch.bool, False, "whether the atom is resolved"),
    Field("atom_slot", ("atom",), torch.uint8, 0, "index of the atom in its token"),
    Field("molecule", ("token",), torch.uint8, 0, "protein, RNA, DNA or ligand"),
    Field("center_atom", ("token",), torch.int32, -1, "centre atom; −1 if none", index_of="atom"),
    Field(
        "representative_atom",
        ("token",),
        torch.int32,
        -1,
        "atom that distances are measured from; −1 if none",
        index_of="atom",
    ),
    Field(
        "frame_atoms",
        ("token", "corner"),
        torch.int32,
        -1,
        "atoms of the token's frame; −1 if none",
        index_of="atom",
    ),
    Field(
        "ligand_bonds",
        ("ligand_bond", "end"),
        torch.int32,
        -1,
        "bonds between polymers and ligands; −1 where padded",
        index_of="atom",
    ),
    Field("resolution", (), torch.float32, 0, "of the experiment, ångström; 0 if unknown"),
)
ALPHAFOLD3_FIELDS = (*TRUNK_FIELDS, *ATOM_FIELDS, *TEMPLATE_FIELDS, *LABEL_FIELDS)

# Values of the field `molecule`.
PROTEIN, RNA, DNA, LIGAND = range(4)


class Batch(Mapping[str, Tensor]):
    """Mapping of field names to tensors ``[batch, *axes]`` whose axis sizes agree."""

    def __init__(
        self, tensors: Mapping[str, Tensor], fields: Sequence[Field] = TRUNK_FIELDS
    ) -> None:
        """Check the tensors against their declarations.

        Raises:
            ArgumentError: a field is missing or unknown, or has the wrong dtype or shape.
        """
        declared = {field.name for field in fields}
        if declared != set(tensors):
            missing, unknown = declared - set(tensors), set(tensors) - declared
            raise ArgumentError(
                f"batch lacks {sorted(missing)} and has undeclared {sorted(unknown)}"
            )
        self.fields = tuple(fields)
        self._tensors = {field.name: tensors[field.name] for field in fields}
        self.sizes: dict[str, int] = {}
        for field in fields:
            tensor = self._tensors[field.name]
            if tensor.dtype != field.dtype:
                raise ArgumentError(f"{field.name} is {tensor.dtype}; expected {field.dtype}")
            if tensor.dim() != 1 + len(field.axes):
                raise ArgumentError(
                    f"{field.name} has shape {tuple(tensor.shape)}; "
                    f"expected [{' '.join(('batch', *field.axes))}]"
                )
            for axis, size in zip(("batch", *field.axes), tensor.shape, strict=True):
                expected = FIXED_AXES.get(axis) or self.sizes.setdefault(axis, size)
                if size != expected:
                    raise ArgumentError(f"{field.name}: axis {axis} is {size}; expected {expected}")

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @property
    def nbytes(self) -> int:
        """Total bytes of all fields."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.values())

    def digests(self) -> dict[str, str]:
        """Return 16 hexadecimal digits of SHA-256 over each field's dtype, shape and bytes."""
        digests = {}
        for name, tensor in self.items():
            digest = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
            digests[name] = digest.hexdigest()[:16]
        return digests

    def digest(self) -> str:
        """Return 16 hexadecimal digits of SHA-256 over all fields."""
        return hashlib.sha256(" ".join(self.digests().values()).encode()).hexdigest()[:16]

    def to(self, device: torch.device) -> "Batch":
        """Return a copy on `device`; the transfer from pinned memory is asynchronous."""
        return Batch(
            {name: tensor.to(device, non_blocking=True) for name, tensor in self.items()},
            self.fields,
        )

    def packed(self) -> "PackedBatch":
        """Return a copy in one contiguous buffer, which is sent in a single transfer."""
        shapes = tuple(tuple(tensor.shape) for tensor in self.values())
        slices, size = _slices(self.fields, shapes)
        buffer = torch.zeros(size, dtype=torch.uint8)
        for piece, tensor in zip(slices, self.values(), strict=True):
            buffer[piece].copy_(tensor.contiguous().flatten().view(torch.uint8))
        return PackedBatch(buffer, self.fields, shapes)

    def replaced(self, **tensors: Tensor) -> "Batch":
        """Return a copy with new values of the named fields, moved to this batch's device.

        Raises:
            ArgumentError: a field is unknown, or a value has another dtype or shape.
        """
        device = self["example"].device
        on_device = {name: tensor.to(device) for name, tensor in tensors.items()}
        return Batch({**self, **on_device}, self.fields)

    def padded(self, **sizes: int) -> "Batch":
        """Return a copy with the named axes padded at their ends.

        Raises:
            ArgumentError: an axis is unknown or already longer.
        """
        for axis, size in sizes.items():
            if axis not in self.sizes:
                raise ArgumentError(
                    f"cannot pad axis {axis}: the batch has the axes {', '.join(self.sizes)}"
                )
            if size < self.sizes[axis]:
                raise ArgumentError(f"cannot pad axis {axis} to {size}: it is {self.sizes[axis]}")

        def pad(field: Field) -> Tensor:
            tensor = self[field.name]
            shape = [tensor.shape[0]] + [
                sizes.get(axis, old) for axis, old in zip(field.axes, tensor.shape[1:], strict=True)
            ]
            if shape == list(tensor.shape):
                return tensor
            out = tensor.new_full(shape, field.padding)
            out[tuple(slice(old) for old in tensor.shape)] = tensor
            return out

        return Batch({field.name: pad(field) for field in self.fields}, self.fields)

    def narrowed(self, axis: str, start: int, stop: int) -> "Batch":
        """Return a batch with the entries [start, stop) of the named axis, as views.

        Indices into that axis are left as they are.
        """

        def narrow(field: Field) -> Tensor:
            tensor = self[field.name]
            for position, name in enumerate(field.axes, start=1):
                if name == axis:
                    tensor = tensor.narrow(position, start, stop - start)
            return tensor

        return Batch({field.name: narrow(field) for field in self.fields}, self.fields)

    def permuted_tokens(self, order: Tensor) -> "Batch":
        """Return a copy whose token k is token order[k] of this batch."""
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(len(order))

        def permute(field: Field) -> Tensor:
            tensor = self[field.name]
            if field.index_of == "token":
                return torch.where(tensor < 0, tensor, inverse[tensor.long()].to(tensor.dtype))
            for axis, name in enumerate(field.axes, start=1):
                if name == "token":
                    tensor = tensor.index_select(axis, order)
            return tensor

        return Batch({field.name: permute(field) for field in self.fields}, self.fields)

    @classmethod
    def empty(cls, fields: Sequence[Field] = TRUNK_FIELDS, batch: int = 1, **sizes: int) -> "Batch":
        """Return a batch of padding with the axis sizes `sizes`, for tracing without data."""
        return cls(
            {
                field.name: torch.full(
                    (batch, *(FIXED_AXES.get(axis) or sizes[axis] for axis in field.axes)),
                    field.padding,
                    dtype=field.dtype,
                )
                for field in fields
            },
            fields,
        )

    @classmethod
    def stacked(cls, examples: "Sequence[Batch]") -> "Batch":
        """Return the concatenation of several batches, each axis padded to the longest.

        Raises:
            ArgumentError: `examples` is empty.
        """
        if not examples:
            raise ArgumentError("a batch needs at least one example")
        axes = [axis for axis in examples[0].sizes if axis != "batch"]
        sizes = {axis: max(example.sizes[axis] for example in examples) for axis in axes}
        padded = [example.padded(**sizes) for example in examples]
        return cls(
            {name: torch.cat([example[name] for example in padded]) for name in examples[0]},
            examples[0].fields,
        )


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Bytes of a batch, field after field.

    Attributes:
        buffer: [byte] uint8.
        fields: Fields in the buffer, in order.
        shapes: Shape of each field.
    """

    buffer: Tensor
    fields: tuple[Field, ...]
    shapes: tuple[tuple[int, ...], ...]

    def unpacked(self) -> Batch:
        """Return the batch, whose tensors are views of the buffer."""
        slices, _ = _slices(self.fields, self.shapes)
        tensors = {
            field.name: self.buffer[piece].view(field.dtype).view(shape)
            for field, piece, shape in zip(self.fields, slices, self.shapes, strict=True)
        }
        return Batch(tensors, self.fields)


# Every field starts at a multiple of this many bytes, an alignment that suits every dtype.
_ALIGNMENT = 64


def _slices(fields: Sequence[Field], shapes: Sequence[tuple[int, ...]]) -> tuple[list[slice], int]:
    """Return the byte range of each field in the buffer, and the size of the buffer."""
    slices, end = [], 0
    for field, shape in zip(fields, shapes, strict=True):
        start = -(-end // _ALIGNMENT) * _ALIGNMENT
        end = start + math.prod(shape) * field.dtype.itemsize
        slices.append(slice(start, end))
    return slices, end
