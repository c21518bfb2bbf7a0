"""Config files, which the package ships as `ipt_jax.configs`."""
