"""Other systems beside Everpost: each built from its own packages, given the same faults and measured by one client."""
