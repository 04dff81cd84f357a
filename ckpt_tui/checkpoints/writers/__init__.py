"""Writers of checkpoints: plain data and bytes in, the pieces of a file out. They open nothing and write nothing."""
