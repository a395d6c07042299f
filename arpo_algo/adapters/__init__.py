"""The environments under trainers that are not ours: one file a trainer."""
