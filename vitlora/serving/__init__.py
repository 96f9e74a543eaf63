"""Answers to pictures over HTTP. Import its modules one by one; only ``app.py`` knows FastAPI."""
