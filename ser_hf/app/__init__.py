"""The Gradio page and the HTTP API."""

import os

# Gradio reads these when it is imported, so they stand before every module of the app. Without the
# first it calls out; without the others it sums up the last 10,000 requests after each request.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "1")
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", str(10**9))
