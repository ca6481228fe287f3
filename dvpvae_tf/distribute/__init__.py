"""Work on several devices, processes or machines."""
