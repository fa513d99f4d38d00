"""The command line. Results go to stdout, logs to stderr; `--json` on every command that reports."""
