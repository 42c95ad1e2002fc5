"""One connection, from asked-for to gone. Begin with life.py."""
