"""The same training by other people's trainers, so that they can be compared on one machine."""
