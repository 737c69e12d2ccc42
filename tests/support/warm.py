"""Script that starts the kernels of a warm cache, in a process without interpretation.

The kernels are started through Triton's launch path, then one in another dtype. The hits and misses
of Triton's cache are printed for both.
"""

import json
from dataclasses import asdict

from bench.compilation.cache_hits import count_compilations
from bench.compilation.launches import distinct, single_launches
from bench.compilation.offline import offline, start

ARCHITECTURE, OPERATOR, TOKENS = "sm_90", "adaptive_layer_norm", 383


def launches(precision):
    all_launches = single_launches(ARCHITECTURE, TOKENS, precision=precision)
    return [launch for launch in all_launches if launch.kernel.startswith(OPERATOR)]


def main():
    same, other = launches("bfloat16"), launches("float32")[:1]
    results = {"variants": len(distinct(same, ARCHITECTURE))}
    with count_compilations() as outer:
        for name, group in (("same", same), ("other", other)):
            with offline(ARCHITECTURE), count_compilations() as compilations:
                for launch in group:
                    start(launch)
            results[name] = asdict(compilations)
    print(json.dumps(results | {"outer": asdict(outer)}))


if __name__ == "__main__":
    main()
