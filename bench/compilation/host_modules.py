"""C modules through which Triton calls a CUDA driver, built on a machine without one.

Triton compiles one module for the driver and, before 3.7, another for every launched signature; it
stores them in the same cache as the kernels. The modules are linked to the driver's library. If
that is missing, a stub library of the same name lets Triton's own code build and load them.
"""

import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from refsys.files import write_atomically
from refsys.home import home

_LIBRARY = "libcuda.so.1"
_CALL = re.compile(r"\b(cu[A-Z]\w*)\s*\(")


def build_host_modules(compiled: Any) -> str | None:
    """Build the host modules that launching a compiled kernel needs, unless they are cached.

    Args:
        compiled: Kernel as returned by Triton's compiler.

    Returns:
        Reason for which nothing was built; None if all modules are in the cache.
    """
    if compiled.metadata.target.backend != "cuda":
        return "launchers for AMD can be built only on a machine with ROCm"
    reason = _prepare()
    if reason is None:
        from triton.backends.nvidia import driver

        if hasattr(driver, "make_launcher"):
            driver.CudaLauncher(compiled.src, compiled.metadata)
    return reason


@functools.cache
def _prepare() -> str | None:
    """Build the driver's module; return the reason if that is impossible."""
    from triton.backends.nvidia import driver

    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "there is no C compiler"
    try:
        if not _has_library(driver):
            _stand_in(driver)
        driver.CudaUtils()
    except (OSError, subprocess.SubprocessError, RuntimeError, ImportError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _has_library(driver: Any) -> bool:
    try:
        driver.libcuda_dirs()
    except (AssertionError, OSError, subprocess.SubprocessError):
        return False
    return True


def _stand_in(driver: Any) -> None:
    """Build and load a stub of the driver's library, for this process."""
    from triton import knobs

    sources = Path(driver.dirname, "driver.c"), Path(driver.__file__)
    names = {name for path in sources for name in _CALL.findall(path.read_text(encoding="utf-8"))}
    text = "".join(f"int {name}(void) {{ return 999; }}\n" for name in sorted(names))
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    folder = home().absolute() / "libraries" / f"driver-{digest}"
    library = folder / _LIBRARY
    if not library.exists():
        with tempfile.TemporaryDirectory() as scratch:
            source, built = Path(scratch, "stand_in.c"), Path(scratch, _LIBRARY)
            source.write_text(text, encoding="utf-8")
            compiler = os.environ.get("CC") or shutil.which("gcc") or "clang"
            flags = ["-shared", "-fPIC", f"-Wl,-soname,{_LIBRARY}"]
            command = [compiler, *flags, "-o", str(built), str(source)]
            subprocess.run(command, check=True, capture_output=True)
            write_atomically(library, built.read_bytes())
    # Modules that are linked to the library resolve to the one that is already loaded.
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    knobs.nvidia.libcuda_path = str(folder)
