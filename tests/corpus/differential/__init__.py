"""The differential test renders public images with this project and with independent decoders, and compares them.

corpora.py       installs the decoders, and unpacks the images from packages with pinned hashes (corpora.txt)
reference.py     with the decoders alone: measures how far a rendition is from its source
compare.py       renders each file, has it measured, and judges
explained.toml   the files that differ for a known reason
__main__.py      the command `python -m tests.corpus.differential`
"""
