"""A trained model as a service: the exported SavedModel, a thin server and a client."""
