"""What may be dialled: the questions of an egress policy, and who asks them when."""
