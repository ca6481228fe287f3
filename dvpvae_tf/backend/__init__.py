"""TensorFlow as the backend of Keras, imported quietly, and the private parts of Keras that the library uses."""
