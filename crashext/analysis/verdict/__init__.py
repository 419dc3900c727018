"""Facts in, verdicts out: named rules over named numbers. No memory is read here."""
