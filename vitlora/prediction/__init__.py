"""A picture and a bundle give a class with its confidence. Import its modules one by one."""
