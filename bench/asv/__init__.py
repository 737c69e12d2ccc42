"""History of every metric in airspeed velocity's dashboard.

``benchmarks`` says what asv tracks of a record. Two ways lead there, and meet in the same graphs:
``suite``, which ``asv run`` executes, and ``export``, which turns records of any machine into asv's
files. ``plugin`` is loaded by asv itself (``asv.conf.json``). asv is imported in functions alone.
"""
