"""The benchmark runner, the studies and the speed measurements. Nothing in ``arpo_env`` or ``arpo_algo`` imports it."""
