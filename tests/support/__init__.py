"""Stand-ins, records and assertions shared by test files."""

# Timeout after which a process counts as hung; generous, since the machine may be shared.
HANG_S = 1_800
