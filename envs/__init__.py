"""Task families; one third-party environment library a file."""
