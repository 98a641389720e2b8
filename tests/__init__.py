"""The suite; a package so that its modules cannot be taken for another distribution's."""
