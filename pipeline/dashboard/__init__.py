"""The web page: the state of the pipeline, failures with their reasons, and a button to redrive them.

Starlette and Jinja2 render the pages on the server, and a small script keeps them up to date. The pages load nothing
from other sites, and show untrusted strings only as text.
"""
