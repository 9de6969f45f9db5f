"""Words that every module shares. No business noun lives here."""
