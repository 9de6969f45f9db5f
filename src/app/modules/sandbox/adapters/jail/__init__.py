"""Workers behind walls of this machine's own kernel, forked from one zygote a project."""
