"""What every command needs of the process: errors, files, random numbers, devices, other processes."""
