"""The errors that analysis raises on purpose."""


class AnalysisError(Exception):
    """Records that cannot be analysed, or a view that cannot be written; one line of message."""
