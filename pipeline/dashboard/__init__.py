"""The web page for people: what the pipeline is doing, what failed and why, and a way to send it through again.

Rendered on the server by Starlette and Jinja2; a little JavaScript of its own keeps it fresh. It asks nothing of the
outside, and shows what strangers wrote as text alone.
"""
