"""Who samples rollouts: this process, other processes of the run, Ray actors, or a thread one step ahead."""
