"""The temperatures that commands and pictures take by default. Imports no TensorFlow."""

SAMPLE_TEMPERATURE = 0.8  # of z, in the commands `sample` and `client`
PICTURE_TEMPERATURE = 0.7  # of z, in pictures of likely images
PICTURE_PRIOR_TEMPERATURE = 0.8  # of u, in pictures of likely images
LOW_TEMPERATURE = 0.1  # of what is not inferred, in partial reconstructions and interpolations
