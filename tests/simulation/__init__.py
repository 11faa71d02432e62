"""A DAG of 2 to 16 servers in one process under one seed: production code, simulated everything else."""
