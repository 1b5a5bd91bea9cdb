"""Why rows can be believed: hash-chained events over them, heads that leave the house, signatures."""
