"""From the words typed to a command, and from a mistake to one line. Nobody imports it."""
