"""The saved adapter: written atomically, verified when read, merged into its base.

Import its modules one by one: finding a bundle needs no torch.
"""
