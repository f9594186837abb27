"""Where data and results lie: an address, what is read and written there, and what an error of it means."""
