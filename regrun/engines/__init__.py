"""Who trains the stacks of a sweep: processes on this machine, a cluster, or a launcher of Hydra's."""
