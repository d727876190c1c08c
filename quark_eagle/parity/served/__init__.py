"""Served parity: the same two drafts in a real engine, asked in interleaved blocks, counted request by request."""
