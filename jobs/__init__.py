"""How the pipeline runs: Spark sessions, tasks, run folders and the command line. No HTML and no thresholds here."""
