"""Config files, shipped inside the package as `ipt_jax.configs`."""
