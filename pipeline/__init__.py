"""Assets -> dataset: sources, gates, plan, job, and the run on Ray."""
