"""Labelling new pictures with a bundle's help: which to ask for first, the page, the files."""
