"""The errors that analysis raises on purpose."""


class AnalysisError(Exception):
    """Failure to analyse records or to write a view; the message is one line."""
