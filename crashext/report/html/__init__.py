"""A finished report as one HTML file to look at and to send: blocks, figures, and templates.

Modules named like the questions turn results into blocks (`blocks.py`); `page.py` alone knows HTML.
"""
