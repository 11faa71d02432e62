"""The client access array: a virtual address held under quorum, and the balancer behind it (spec 6)."""
