"""The StartTLS dialogues, without a socket: each says what to send and what to read."""
