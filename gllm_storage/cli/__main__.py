"""``python -m gllm_storage.cli``."""

from gllm_storage.cli import main

if __name__ == "__main__":
    main()
