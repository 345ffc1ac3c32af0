"""Running and measuring: flags, loading a policy, the run and its folder, metrics, results, pictures."""
