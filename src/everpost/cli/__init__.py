"""The command line: the only place that constructs and wires."""
