"""From a bundle to a running process: plan, init, monitor, exec, state."""
