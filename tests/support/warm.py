"""Starts the kernels that a warm cache holds: a script, as kernels must not be interpreted.

First through Triton's launch path as they are, then one in another dtype. Prints what Triton found
in its cache and what it compiled, each time.
"""

import json
from dataclasses import asdict

from bench.compilation.cache_hits import count_compilations
from bench.compilation.launches import distinct, single_launches
from bench.compilation.offline import offline, start

ARCHITECTURE, OPERATOR, TOKENS = "sm_90", "adaptive_layer_norm", 383


def launches(precision):
    found = single_launches(ARCHITECTURE, TOKENS, precision=precision)
    return [launch for launch in found if launch.kernel.startswith(OPERATOR)]


def main():
    same, other = launches("bfloat16"), launches("float32")[:1]
    results = {"variants": len(distinct(same, ARCHITECTURE))}
    with count_compilations() as outer:
        for name, some in (("same", same), ("other", other)):
            with offline(ARCHITECTURE), count_compilations() as found:
                for launch in some:
                    start(launch)
            results[name] = asdict(found)
    print(json.dumps(results | {"outer": asdict(outer)}))


if __name__ == "__main__":
    main()
