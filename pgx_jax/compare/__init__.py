"""The rule of comparison: methods at the same total of environment steps."""
