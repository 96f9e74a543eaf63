"""Several runs side by side: methods compared on the same pictures."""
