"""A network in a page: pictures are classified in the browser, offline."""
