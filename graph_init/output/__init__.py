"""Everything that is written: whole or not at all, and the same whatever interrupts it."""
