"""Behind the command line: shared options, default places, reports, and commands' own parts."""
