"""Stand-ins, records and assertions shared by test files."""

import socket

# Timeout after which a process counts as hung; generous, since the machine may be shared.
HANG_S = 1_800


def free_port() -> int:
    """Return a port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port: int = probe.getsockname()[1]
        return port
