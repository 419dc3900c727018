"""Turning a finished report into text or JSON. No analysis here."""
