"""One job on several devices, processes or machines."""
