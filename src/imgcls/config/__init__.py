"""Keys, types, options and YAML files."""
