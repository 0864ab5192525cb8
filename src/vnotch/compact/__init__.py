"""Merging the small files of a flow log in a folder or bucket into few large ones."""
