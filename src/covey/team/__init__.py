"""Teams: who is there, under which name, and how they come and go."""
