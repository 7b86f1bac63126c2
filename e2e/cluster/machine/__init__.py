"""What the embedded cluster does to this machine: paths, ports, processes, cgroups, networks; and takes back."""
