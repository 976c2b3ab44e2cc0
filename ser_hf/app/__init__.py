"""The Gradio page and the HTTP API."""

import os

# Set before any module here imports Gradio. By default it calls out to its makers, and after each
# request sums up the last 10,000 in tables that nobody sees.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "1")
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", str(10**9))
