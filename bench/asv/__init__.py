"""History of every metric in airspeed velocity's dashboard.

``benchmarks`` defines the figures of a record that asv tracks. They reach the same graphs from
``suite``, which ``asv run`` executes, and from ``export``, which turns records of any machine into
asv's files. ``plugin`` is loaded by asv itself (``asv.conf.json``). asv is imported in functions
alone.
"""
