"""An edit as it is asked for, what it became, and the record that a picture keeps of it."""
