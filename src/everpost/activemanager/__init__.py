"""The policy of database copies: who is active, who must flush, and what happens when a server dies.

Pure: `transitions`, `view`, `bestcopy`, `decide`, `stall`, `relation`. With effects: `copy` and its duties, `service`.
"""
