"""What runs inside crash, under PyKdump's Python. Standard library only, and little of that.

PyKdump's usual build is a static Python 3.9 without json, dataclasses, subprocess, struct-like
luxuries and wheels, so this folder starts the engine in the user's own Python and answers its
questions. It imports nothing of crashext outside this folder.
"""
