"""The training step as pure functions: state, losses, optimiser and the step itself."""
