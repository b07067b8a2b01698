"""WebDAV servers as a provider of gllm_storage."""
