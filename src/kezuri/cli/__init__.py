"""The command line; every command is a thin caller of the library."""
