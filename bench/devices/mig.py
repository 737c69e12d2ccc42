"""Lookup of an NVIDIA card, or of the slice that torch sees of a card in MIG mode."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from bench.devices.device import NotSupported, Unavailable

CARD, SLICE = "GPU-", "MIG-"


class Located(NamedTuple):
    """Device as found in NVML.

    Attributes:
        handle: Handle of the card or slice; None if the slice is not known.
        card: Handle of the slice's card; None for a card, or if not known.
        is_slice: Whether the device is a slice.
        error: Reason for which a handle is missing, or None.
    """

    handle: Any
    card: Any = None
    is_slice: bool = False
    error: Unavailable | None = None


def locate(ask: Callable[..., Any], index: int, uuid: str | None) -> Located:
    """Find a device by UUID or number.

    Args:
        ask: Function that calls NVML by name; raises `Unavailable`.
        index: torch's number of the device.
        uuid: UUID with or without ``GPU-`` or ``MIG-``; None if only the number is known.

    Raises:
        Unavailable: There is no such device.
    """
    if not uuid:
        return _slice_of(ask, ask("nvmlDeviceGetHandleByIndex", index), index)
    names = [uuid] if uuid.startswith((CARD, SLICE)) else [CARD + uuid, SLICE + uuid]
    try:
        handle, name = _by_uuid(ask, names[0]), names[0]
    except NotSupported:
        if len(names) == 1:
            raise
        handle, name = _by_uuid(ask, names[1]), names[1]
    if name.startswith(CARD):
        return _slice_of(ask, handle, index)
    try:
        card = ask("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", handle)
    except Unavailable as error:
        return Located(handle, None, True, error)
    return Located(handle, card, True)


def _by_uuid(ask: Callable[..., Any], uuid: str) -> Any:
    return ask("nvmlDeviceGetHandleByUUID", uuid.encode())


def _slice_of(ask: Callable[..., Any], card: Any, index: int) -> Located:
    """Find the slice of a card that torch sees, or the card itself if it is not in MIG mode.

    Torch's UUID can be the card's. Then the slice must be named by ``CUDA_VISIBLE_DEVICES``, or be
    the card's only one.
    """
    try:
        in_mig_mode = bool(ask("nvmlDeviceGetMigMode", card)[0])
    except Unavailable:
        in_mig_mode = False
    if not in_mig_mode:
        return Located(card)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    named = visible[index].strip() if index < len(visible) else ""
    slices = _slices(ask, card)
    if named.startswith(SLICE):
        try:
            return Located(_by_uuid(ask, named), card, True)
        except NotSupported:
            # CUDA also accepts a unique prefix of a UUID.
            slices = {uuid: slice_ for uuid, slice_ in slices.items() if uuid.startswith(named)}
    if len(slices) == 1:
        return Located(next(iter(slices.values())), card, True)
    error = NotSupported(
        "the card is in MIG mode, and NVML does not say which slice torch sees",
        "set CUDA_VISIBLE_DEVICES to the slice's MIG-UUID",
    )
    return Located(None, card, True, error)


def _slices(ask: Callable[..., Any], card: Any) -> dict[str, Any]:
    """Return the handles of a card's slices by UUID."""
    slices = {}
    try:
        count = ask("nvmlDeviceGetMaxMigDeviceCount", card)
    except Unavailable:
        return {}
    for number in range(count):
        try:
            handle = ask("nvmlDeviceGetMigDeviceHandleByIndex", card, number)
            slices[text(ask("nvmlDeviceGetUUID", handle)) or ""] = handle
        except Unavailable:
            continue  # numbers of slices that do not exist
    return slices


def text(value: Any) -> str | None:
    """Return a string from NVML, which is bytes or str depending on the binding's version."""
    if value is None:
        return None
    return value.decode() if isinstance(value, bytes) else str(value)
