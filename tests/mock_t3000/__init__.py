"""A T3000 in software: ttnn's mock device made usable with nothing but Python, and true numbers through its golden functions."""
