"""Offline HTML pages and their templates."""
