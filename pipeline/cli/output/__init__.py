"""The output of the commands: consoles, errors, tables and reports."""
