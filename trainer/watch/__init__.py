"""Watching a run: its report as one HTML page, rewritten while it trains."""
