"""Is this process alive, is it ready, what is it doing."""
