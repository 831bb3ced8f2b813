"""What bytes mean: pure functions and parsers, fed by others, without I/O."""
