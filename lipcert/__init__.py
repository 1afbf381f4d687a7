"""Train Lipschitz-constrained classifiers, certify them, and attack the certificates."""
