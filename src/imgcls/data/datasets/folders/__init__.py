"""Images in folders: what a folder looks like, how it is read, and what is passed over."""
