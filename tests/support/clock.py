"""Clock that tests set."""


class Clock:
    """Stand-in for `time.monotonic`.

    Attributes:
        now: Time that the clock shows. Unit: s.
    """

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now
