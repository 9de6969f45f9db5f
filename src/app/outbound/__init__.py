"""The one guard of every request to a URL that a user chose."""
