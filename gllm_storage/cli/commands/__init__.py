"""The commands: each module holds one, under its own name, and is imported when its command runs or help is shown."""
