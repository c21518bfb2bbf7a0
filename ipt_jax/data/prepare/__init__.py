"""Building, packing and inspecting data sets: the work behind `ipt data`."""
