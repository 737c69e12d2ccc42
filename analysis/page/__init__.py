"""Page of the report: its findings at full size, tables whose numbers link to records, template."""
