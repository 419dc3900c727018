"""Text that machines print of themselves: recognised and parsed. It knows no dump."""
