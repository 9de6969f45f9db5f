"""What runs behind the wall: the jail, the worker in it, and the wire between it and the server.

The standard library only, for CPython 3.9 and later, and nothing of the server: this package is
also handed into containers. Started as ``python -I -S -c "..."``, it imports all of itself before
it enters a root folder where its own files are no more.
"""
