"""The corpus test renders folders of good and broken images, each in a child process with limits.

samples.py    a small generated set of every kind of cover
mutate.py     broken copies of good files
examine.py    in the child: renders a source as the service does, and checks its renditions
child.py      a child process with limits of memory and time
run.py        renders every file of a folder in the children
__main__.py   the command `python -m tests.corpus FOLDER`
"""
