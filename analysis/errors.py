"""The errors that analysis raises on purpose."""


class AnalysisError(Exception):
    """A view cannot be made of these records. The message is one line."""
