"""Transactions that run again where that is safe."""
