"""A clock that tests set."""


class Clock:
    """Stands for `time.monotonic`.

    Attributes:
        now: What it shows.
    """

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now
