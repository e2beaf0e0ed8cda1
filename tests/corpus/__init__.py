"""The corpus test: whole folders of images, good and broken, rendered one by one in children with limits.

samples.py    a small set, made on the spot, of everything that covers come as
mutate.py     broken copies of good files
examine.py    in the child: one source rendered as the service would, and its renditions looked at
child.py      a child process with a limit of memory and of time
run.py        every file of a folder, through the children
__main__.py   `python -m tests.corpus FOLDER`, and what it prints
"""
