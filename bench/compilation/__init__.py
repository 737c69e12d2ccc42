"""Offline compilation of all kernels for all architectures, without any of the devices.

`specimens` collects the launches of the operators; `compiler` compiles them in worker processes;
`resources` reads the used resources from the machine code; `limits` checks them.

`warm` instead fills Triton's own cache with the launches of full training steps (`launches`),
compiled through Triton's launch path with the driver of `offline`. `cache_hits` counts
compilations.
"""
