"""Every kernel compiled for every architecture on a machine that has none of them.

`specimens` asks the operators what they would launch; `compiler` compiles it, in processes of its
own; `resources` reads from the machine code what the kernel takes; `limits` says what may not be.

`warm` fills Triton's own cache instead, with what `launches` traces of whole training steps,
compiled by Triton's launch path with the driver of `offline`. `cache_hits` counts compilations.
"""
