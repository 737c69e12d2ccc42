"""What several test files share."""

# After so long a process hangs. No test passes or fails by the speed of a machine that others use.
HANG_S = 1_800
