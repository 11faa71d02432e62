"""A whole organisation on one machine: hosts, links, faults, load, demonstration."""
