"""Jobs: work on pushed models, done in a limited subprocess, registered whole or not at all."""
