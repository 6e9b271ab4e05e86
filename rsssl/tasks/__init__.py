"""What a run can do, one file each; thin: they wire the data, the methods, the engine and the evaluation together."""
