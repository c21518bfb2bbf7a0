"""Devices, shardings, and the processes of a run.

All calls of JAX whose names or meaning change between versions are in this package: meshes,
topologies, memory and the compilation cache in `devices`, shardings in `sharding`,
`jax.distributed` in `start`, and JAX's private detection of clusters in `discovery`.
"""
