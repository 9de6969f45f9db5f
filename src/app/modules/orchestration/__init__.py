"""Chat agents over the models of the house."""
