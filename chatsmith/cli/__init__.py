"""The command line: one thin file a command, and the table of commands."""
