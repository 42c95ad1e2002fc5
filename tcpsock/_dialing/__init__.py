"""A name becomes a connected socket: addresses, look-ups, and the race of attempts."""
