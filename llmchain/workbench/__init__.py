"""The workbench: what a notebook declares, how notebooks become a chain, and the commands."""
