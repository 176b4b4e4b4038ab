"""The parts of the command line that are not the flow's own: options, further commands, the progress bar."""
