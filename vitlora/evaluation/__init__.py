"""How good a bundle is, and which of several methods to take."""
