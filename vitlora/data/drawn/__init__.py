"""Ray-traced pictures of waste, made by code: `photo.draw` makes one, `things` names the kinds."""
