"""Methods and options that exist only because s3fs has them."""
