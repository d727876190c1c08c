"""The JSON documents that commands write and other programs read."""
