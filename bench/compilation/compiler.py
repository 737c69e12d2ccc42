"""Offline compilation of specimens in worker processes, with a cache of the results."""

import functools
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.compilation import resources
from bench.compilation.resources import Resources, read_resources
from bench.compilation.specimens import Specimen
from bench.errors import UsageError
from refsys.data.store.columns import MALFORMED
from refsys.files import parse_json, write_json
from refsys.home import home
from refsys.ops.triton_backend import function
from refsys.processes import ProcessPool


@dataclass(frozen=True, slots=True)
class Compiled:
    """Result of compiling a specimen.

    Attributes:
        specimen: Specimen that was compiled.
        resources: Resources of the kernel; None if it does not compile.
        error: Message of the compiler; None if the kernel compiles.
        seconds: Time of the compilation. Unit: s.
        cached: Whether the result is from the cache.
    """

    specimen: Specimen
    resources: Resources | None
    error: str | None
    seconds: float
    cached: bool


def compile_all(
    specimens: Iterable[Specimen], jobs: int, done: Callable[[Compiled], None]
) -> list[Compiled]:
    """Compile specimens that are not in the cache, and call `done` with each result.

    Args:
        specimens: Specimens to compile.
        jobs: Number of worker processes.
        done: Callback in this process, called as results arrive.

    Returns:
        The results, in the order of `specimens`.

    Raises:
        UsageError: Triton is not installed, or kernels are interpreted.
    """
    check_triton()
    results: dict[str, Compiled] = {}
    pending: dict[Future[dict[str, Any]], tuple[str, Path]] = {}
    by_text = {specimen.as_json(): specimen for specimen in specimens}
    with ProcessPool(jobs) as pool:
        for text, specimen in by_text.items():
            path = _path(text, specimen.kernel)
            if (table := _read(path)) is not None:
                results[text] = _compiled(specimen, table, cached=True)
                done(results[text])
            else:
                pending[pool.submit(_compile, specimen)] = text, path
        for future in as_completed(pending):
            text, path = pending[future]
            table = future.result()
            # A failure may be due to the machine rather than the kernel: it is not cached.
            if table["resources"]:
                with suppress(OSError):
                    write_json(path, table)
            results[text] = _compiled(by_text[text], table, cached=False)
            done(results[text])
    return [results[text] for text in by_text]


def check_triton() -> None:
    """Check that kernels can be compiled in this process.

    Raises:
        UsageError: Triton is not installed, or kernels are interpreted.
    """
    try:
        import triton
    except ImportError:
        raise UsageError(
            "compiling kernels needs triton: pip install 'foldperf[kernels]'"
        ) from None
    if triton.knobs.runtime.interpret:
        raise UsageError("TRITON_INTERPRET is set: kernels are interpreted, not compiled")


def _path(text: str, kernel: str) -> Path:
    """Return the cache file of a result, keyed by launch, kernel source, compiler and reader."""
    import triton

    parts = text, function(kernel).cache_key, triton.__version__, _reader()
    name = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return home() / "compiled" / f"{name[:32]}.json"


@functools.cache
def _reader() -> str:
    return hashlib.sha256(Path(resources.__file__).read_bytes()).hexdigest()


def _read(path: Path) -> dict[str, Any] | None:
    """Return a result from the cache; None if there is none or it is damaged."""
    try:
        table = parse_json(path.read_bytes())
        _fields(table)
    except (OSError, *MALFORMED):
        return None
    return dict(table)


def _fields(table: dict[str, Any]) -> tuple[Resources | None, str | None, float]:
    resource_table = table["resources"]
    error = table["error"]
    return (
        None if resource_table is None else _resources(resource_table),
        None if error is None else str(error),
        float(table["seconds"]),
    )


def _resources(table: dict[str, Any]) -> Resources:
    """Return the resources of a cached result.

    Raises:
        TypeError: A field is missing or unknown, or a value is not a number.
    """
    parsed = Resources(**table)
    for name, value in table.items():
        by_kind = name in {"matrix_instructions", "atomic_instructions"}
        numbers = list(value.values()) if by_kind else [value]
        if not all(isinstance(number, int | float) for number in numbers if number is not None):
            raise TypeError(f"{name} is {value!r:.80}")
        if value is None and name != "loop_instructions":
            raise TypeError(f"{name} is missing")
    return parsed


def _compiled(specimen: Specimen, table: dict[str, Any], *, cached: bool) -> Compiled:
    return Compiled(specimen, *_fields(table), cached)


def _compile(specimen: Specimen) -> dict[str, Any]:
    """Compile a specimen, in a process of the pool, and return the result as JSON values."""
    start = time.monotonic()
    try:
        used, error = asdict(compile_specimen(specimen)), None
    except Exception as raised:
        # Any error of the compiler is a result, not a failure of the run.
        used, error = None, f"{type(raised).__name__}: {' '.join(str(raised).split())[:500]}"
    return {"resources": used, "error": error, "seconds": time.monotonic() - start}


def compile_specimen(specimen: Specimen, kernel: Any = None) -> Resources:
    """Compile one specimen in this process and return its resources.

    Args:
        specimen: Specimen to compile.
        kernel: Kernel to compile instead of the specimen's, with the same signature.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = kernel or function(specimen.kernel)
    names = kernel.arg_names
    signature = dict.fromkeys(specimen.constants, "constexpr")
    constants: dict[tuple[int, ...], Any] = {
        (names.index(name),): value for name, value in specimen.constants.items()
    }
    for index, kind in enumerate(specimen.types):
        signature[names[index]] = _with_constants(kind)
        constants |= dict.fromkeys(_ones(kind, (index,)), 1)
    source = ASTSource(
        fn=kernel,
        signature={name: signature[name] for name in names},
        constexprs=constants,
        attrs={path: [["tt.divisibility", 16]] for path in specimen.divisible},
    )
    architecture = specimen.architecture
    if architecture.startswith("sm_"):
        target = GPUTarget("cuda", int(architecture.removeprefix("sm_")), 32)
    else:
        target = GPUTarget("hip", architecture, 64)
    compiled = triton.compile(source, target=target, options=dict(specimen.options))
    return read_resources(compiled, architecture, specimen.options["num_warps"])


def _with_constants(kind: Any) -> Any:
    if isinstance(kind, (tuple, list)):
        return tuple(_with_constants(part) for part in kind)
    return "constexpr" if kind is None else kind


def _ones(kind: Any, path: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield the paths of the arguments that are constants because their value is 1."""
    if isinstance(kind, (tuple, list)):
        for index, part in enumerate(kind):
            yield from _ones(part, (*path, index))
    elif kind is None:
        yield path
