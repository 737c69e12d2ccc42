"""Adding planes up."""

from torch import Tensor

from refsys.ops.triton_backend import launch, launch_options, tiles


def fold(planes: Tensor, out: Tensor) -> None:
    """Sums over the planes, in their order, into `out`.

    Args:
        planes: [batch, plane, ...] in float32, dense.
        out: [batch, ...], dense; any floating-point dtype.
    """
    batch, count = planes.shape[:2]
    each = out.numel() // batch
    options = launch_options("planes.fold", planes)
    grid = tiles(each, options["BLOCK"]), batch
    launch("planes.fold", grid, planes, out, count, each, **options)
