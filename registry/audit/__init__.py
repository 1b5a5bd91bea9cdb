"""What made a thing, what was made from it, and does every checksum hold: found, checked, told."""
