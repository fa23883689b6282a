"""Training code of the embedded models; not part of the installed packages."""
