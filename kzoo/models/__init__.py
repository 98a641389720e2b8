"""One file per family; nothing is imported until `kzoo.get` asks for a name."""
