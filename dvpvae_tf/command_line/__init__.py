"""What commands share: options that are parsed before TensorFlow is imported, and the inputs they name."""
