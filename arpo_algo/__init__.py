"""ARPO and its rivals over forkable Gymnasium environments."""
