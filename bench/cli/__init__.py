"""The command line: one file for each subcommand. The only place that imports ``analysis``."""
