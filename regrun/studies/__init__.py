"""A claim from the literature, the runs that try it, and a verdict whose condition was written down before."""
